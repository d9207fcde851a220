"""One plain function of (config, workdir) per stage; orchestrates the rooms."""
