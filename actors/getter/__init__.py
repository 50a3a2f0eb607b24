"""The Getter: follows nodes, records ends, fetches results, has attempts released."""
