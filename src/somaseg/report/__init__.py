"""Pictures and pages: overlays, contact sheets, self-contained HTML."""
