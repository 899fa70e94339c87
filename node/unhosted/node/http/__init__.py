"""The HTTP surface: OpenAI and Anthropic dialects, the control API and the page, over one `Node`.

`unhosted.node.http.api.create_app` builds the ASGI app, `unhosted.node.http.server.serve_http` serves it.
Nothing is imported here, so that `unhosted --help` stays quick.
"""
