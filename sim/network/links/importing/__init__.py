"""Makes traces: from the files in which people have them, and by stated generators."""
