"""The layouts that data come in: one file each for folders, lists, shards, tables, the hub; and what they share."""
