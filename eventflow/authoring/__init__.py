"""How a flow is written: `@task`, `@flow`, nodes, parameters, and the builder that makes a graph of them."""
