"""The commands. One module each, imported when its command runs: `unhosted --help` loads none of them."""
