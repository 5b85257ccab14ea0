"""Reading a component in bulk: its hierarchy, its entries, and what tells that it has changed."""
