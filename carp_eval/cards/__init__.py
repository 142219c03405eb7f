"""Cards: TOML files that say what a recipe, a protocol or a published table is. Nothing in them is code."""
