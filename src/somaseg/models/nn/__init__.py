"""Networks and their parts that families share."""
