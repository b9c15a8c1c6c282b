"""The napari plugin (extra ``napari``): segment what is on show, correct it, keep it."""
