import base64
import json
import re
import unittest

from app import app, tokenmint
from fastapi.testclient import TestClient


def claims(token):
    return json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))


def tokens_in(page):
    return json.loads(re.search(r'id="chat-tokens">(.*?)</script>', page.text)[1])


class ChatTokens(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.browser = cls.enterClassContext(TestClient(app))  # one event loop for all tests, since the connections are kept

    def setUp(self):
        self.browser.post("/login", data={"user": "user-1"})

    def test_the_page_has_both_tokens_of_the_signed_in_user(self):
        page = self.browser.get("/")
        tokens = tokens_in(page)["tokens"]
        self.assertEqual(claims(tokens["salesforce_identity_token"])["sub"], "user-1")
        self.assertEqual(claims(tokens["intercom_user_jwt"])["user_id"], "user-1")
        self.assertEqual(page.headers["Cache-Control"], "no-store")

    def test_new_tokens_need_a_session(self):
        self.assertEqual(self.browser.get("/chat-tokens").status_code, 200)
        self.browser.post("/logout")
        self.assertEqual(self.browser.get("/chat-tokens").status_code, 401)

    def test_the_page_loads_without_tokenmint(self):
        tokenmint.base_url, url = "http://127.0.0.1:9", tokenmint.base_url
        self.addCleanup(setattr, tokenmint, "base_url", url)
        page = self.browser.get("/")
        self.assertEqual(page.status_code, 200)
        self.assertIsNone(tokens_in(page))
