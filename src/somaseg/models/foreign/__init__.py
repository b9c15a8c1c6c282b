"""Model files of other libraries: read without being executed, recognised, made ours."""
