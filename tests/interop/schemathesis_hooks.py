"""Tells Schemathesis what openapi.yaml cannot: the values that this deployment's configuration allows.

The document leaves open which profiles there are, how long a token may live and which claims a caller may set. Made up
at random, nearly all such values would be refused, rightly, and no valid request would ever be tried. So the schema is
narrowed to what service.py configures for the caller `one-of-each`, and then each valid request must be granted.

Or passed on: the operations that get an access token answer 502, 503 or 504 if another server refuses or fails, which no
validity of the request prevents. schemathesis.toml lets them, and no other operation.
"""

import copy

import schemathesis

PROFILES = {
    "/identity-token": "identity.web",
    "/oauth-assertion": "oauth.crm",
    "/intercom-user-jwt": "intercom.fin",
    "/hs256-token": "hs256.stream",
    "/oauth-access-token": "oauth.crm",
    "/messaging-access-token": "identity.web",
}

TOKEN_PATHS = ["/oauth2/token", "/services/oauth2/token"]

# The service refuses unassigned characters, and no portable pattern says which those are.
ASSIGNED = "^[!-~\u00a1-\u00ac\u00ae-\u0233\u0391-\u03a1\u0410-\u044f\u4e00-\u9fa5\U0001f600-\U0001f640]+$"

# Generators of clients misread `not`, so the document says this in prose. These are the rules of src/tokens/subject.rs.
NOBODY = {
    "anyOf": [
        {"pattern": r"^\s|\s$"},
        {
            "pattern": "^(NaN|[nN][uU][lL][lL]|\\([nN][uU][lL][lL]\\)|<[nN][uU][lL][lL]>|[uU][nN][dD][eE][fF][iI][nN][eE][dD]|"
            "[nN][oO][nN][eE]|[nN][iI][lL]|<[nN][iI][lL]>|#<[nN][iI][lL]>|[aA][nN][oO][nN][yY][mM][oO][uU][sS]([uU][sS][eE][rR])?|"
            "\\[[oO][bB][jJ][eE][cC][tT] ([oO][bB][jJ][eE][cC][tT]|[pP][rR][oO][mM][iI][sS][eE])\\])$"
        },
        {"pattern": r"^(\{\{.*\}\}|\$\{.*\}|<%(.*%)?>)$"},
    ]
}


@schemathesis.hook
def before_load_schema(context, raw_schema):
    # Schemathesis parses this answer. To a generated client it is text.
    raw_schema["paths"]["/openapi.yaml"]["get"]["responses"]["200"]["content"] = {"application/yaml": {}}
    close_enums(raw_schema)
    for path, item in raw_schema["paths"].items():
        narrow_parameters(raw_schema, item)
        if path in PROFILES and "post" in item:
            narrow_body(raw_schema, item["post"], path)
        if path == "/bundle":
            narrow_bundle(raw_schema, item["post"])
        if path in TOKEN_PATHS:
            narrow_token_request(raw_schema, item["post"])


@schemathesis.hook
def map_body(context, body):
    """JSON Schema counts 60.0 among the integers; the service takes a ttl only as JSON.stringify writes it: 60."""
    if isinstance(body, dict) and isinstance(body.get("ttl"), float) and body["ttl"].is_integer():
        return body | {"ttl": int(body["ttl"])}
    return body


def close_enums(node):
    """A generated client must take the values of later versions. This version sends only those that the document lists."""
    if isinstance(node, dict):
        if "x-extensible-enum" in node:
            node["enum"] = node.pop("x-extensible-enum")
        node = list(node.values())
    for child in node if isinstance(node, list) else []:
        close_enums(child)


def resolved(document, node):
    """A copy of what a `$ref` names: the original may be shared with other operations."""
    while "$ref" in node:
        target = document
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target[step.replace("~1", "/").replace("~0", "~")]
        node = target
    return copy.deepcopy(node)


def narrow_body(document, operation, path):
    body = operation["requestBody"] = resolved(document, operation["requestBody"])
    media = body["content"]["application/json"]
    schema = media["schema"] = resolved(document, media["schema"])
    properties = schema.get("properties", {})
    narrow_subject(document, schema)
    if "profile" in properties:
        properties["profile"] = {"enum": [PROFILES[path]]}
    if "ttl" in properties:
        properties["ttl"] = resolved(document, properties["ttl"]) | {"maximum": 3600}
    if "claims" in properties:
        claims = resolved(document, properties["claims"])
        if PROFILES[path] == "identity.web":
            # What a value may be stays as the document has it.
            claims["properties"] = {"locale": claims.get("additionalProperties", True)}
            claims["additionalProperties"] = False
            properties["claims"] = claims
        else:
            del properties["claims"]  # none are configured there


def narrow_subject(document, schema):
    """The caller has no issuer of subject tokens, so it names its subjects."""
    properties = schema.get("properties", {})
    for name in {"sub", "user_id"} & properties.keys():
        properties[name] = resolved(document, properties[name]) | {"pattern": ASSIGNED, "not": NOBODY}
        del properties["subject_token"]
        schema["required"] = [name]


def narrow_bundle(document, operation):
    """The one bundle that there is, and the one claim of one of its entries."""
    body = operation["requestBody"] = resolved(document, operation["requestBody"])
    media = body["content"]["application/json"]
    schema = media["schema"] = resolved(document, media["schema"])
    narrow_subject(document, schema)
    claim = resolved(document, {"$ref": "#/components/schemas/Claims"})["additionalProperties"]
    claims = {"type": "object", "properties": {"locale": claim}, "additionalProperties": False}
    entries = {"type": "object", "properties": {"salesforce_identity_token": claims}, "additionalProperties": False}
    schema["properties"] |= {"bundle": {"enum": ["fin", "bundles.fin"]}, "claims": entries}


def narrow_token_request(document, operation):
    """The caller has its credential in a header, so none may be in the form. It has no issuer of subject tokens either."""
    body = operation["requestBody"] = resolved(document, operation["requestBody"])
    media = body["content"]["application/x-www-form-urlencoded"]
    del media["examples"]
    schema = media["schema"] = resolved(document, media["schema"])
    properties = {"profile": {"enum": ["crm", "oauth.crm"]}, "grant_type": {"enum": ["client_credentials"]}}
    properties["rejected_token"] = schema["properties"]["rejected_token"]
    schema["properties"] = properties


def narrow_parameters(document, item):
    for holder in [item, *(operation for operation in item.values() if isinstance(operation, dict))]:
        holder["parameters"] = [resolved(document, parameter) for parameter in holder.get("parameters", [])]
        for parameter in holder["parameters"]:
            if (parameter["in"], parameter["name"]) == ("path", "keyset"):
                parameter["schema"] = {"enum": ["web", "web512", "crm"]}
