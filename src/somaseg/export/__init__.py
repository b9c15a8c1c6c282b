"""Write what was found: submissions, COCO JSON, label images."""
