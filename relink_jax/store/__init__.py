"""Every durable write: atomic files, shards, tables, checkpoints, workdirs."""
