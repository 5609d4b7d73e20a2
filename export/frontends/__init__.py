"""Front-ends are made here: graphs and vocabularies from published weights."""
