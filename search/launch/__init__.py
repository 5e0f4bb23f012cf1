"""Who works: this process, processes of this machine, or actors of a Ray cluster."""
