"""Features on disk, extracted once, and the search over them."""
