"""The semantic family: what each pixel is, and a watershed that makes cells of it."""
