"""A token endpoint as a Salesforce login is one, made with Authlib's server side of RFC 7523.

It knows one client and one user, and fetches the client's public keys from tokenmint's JWKS, as a real server would.
`/services/oauth2/token` expects the audience that the tests configure; `/elsewhere/token` is some other server.
"""

import logging
import os

import requests
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin
from authlib.oauth2.rfc7523 import JWTBearerGrant
from flask import Flask, current_app
from joserfc.jwk import KeySet
from service import CONSUMER_KEY, LOGIN_AUDIENCE, USERNAME

# Authlib refuses plain http otherwise; all of this happens on loopback.
os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"
# One line for each request, on our standard error, would drown the tests' own.
logging.getLogger("werkzeug").setLevel(logging.ERROR)


class ConnectedApp(ClientMixin):
    """The one client. What Authlib asks of one in this grant is only whether it may use the grant, and its scopes."""

    client_id = CONSUMER_KEY

    def get_client_id(self):
        return self.client_id

    def check_grant_type(self, grant_type):
        return grant_type == JWTBearerGrant.GRANT_TYPE

    def get_allowed_scope(self, scope):
        return scope or ""


def grant_for(audience):
    class Grant(JWTBearerGrant):
        LEEWAY = 0  # both clocks are one here, so a second of error is tokenmint's

        def resolve_issuer_client(self, issuer):
            return ConnectedApp() if issuer == CONSUMER_KEY else None

        def resolve_client_public_key(self, client):
            return KeySet.import_key_set(requests.get(current_app.config["JWKS_URL"], timeout=10).json())

        def authenticate_user(self, subject):
            return subject if subject == USERNAME else None

        def get_audiences(self):
            return [audience]

        def has_granted_permission(self, client, user):
            return True

    return Grant


def save_token(token, request):
    """Salesforce's answer has this beside the standard fields, and tokenmint's clients are given it."""
    token["instance_url"] = current_app.config["BASE"]


def oauth_app():
    app = Flask("oauth_server")
    for path, audience in (
        ("/services/oauth2/token", LOGIN_AUDIENCE),
        ("/elsewhere/token", "https://test.salesforce.com"),
    ):
        server = AuthorizationServer(app, query_client=lambda _: None, save_token=save_token)
        server.register_grant(grant_for(audience))
        app.add_url_rule(path, path, server.create_token_response, methods=["POST"])
    return app
