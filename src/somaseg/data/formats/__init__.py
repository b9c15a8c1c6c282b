"""The formats that data sets come in: one module a format, with its reader and its writer."""
