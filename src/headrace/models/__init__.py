"""One file per architecture, named by its model type; each is written over Ops alone."""
