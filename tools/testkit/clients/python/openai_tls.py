"""Calls a gateway over TLS with the unchanged OpenAI SDK.

BASE_URL is the gateway's, without a path; CA the authority that the client trusts; CERT and
KEY, where given, what it shows of itself. Prints what came of the call: the text, or `refused`
where the connection could not be made.
"""

import os
import ssl

import httpx2
import openai

trust = ssl.create_default_context(cafile=os.environ["CA"])
if "CERT" in os.environ:
    trust.load_cert_chain(os.environ["CERT"], os.environ["KEY"])
http = httpx2.Client(verify=trust)
client = openai.OpenAI(
    base_url=os.environ["BASE_URL"] + "/v1", api_key="unused", http_client=http, max_retries=0
)
try:
    reply = client.chat.completions.create(
        model="sim", messages=[{"role": "user", "content": "hello"}]
    )
    print(reply.choices[0].message.content)
except openai.APIConnectionError:
    print("refused")
