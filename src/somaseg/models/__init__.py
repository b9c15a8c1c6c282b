"""Model families behind one interface (:mod:`somaseg.models.base`)."""
