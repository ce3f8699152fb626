"""A mail server for the tests: aiosmtpd, with TLS and a password, printing what it takes in.

Arguments: port, security (none, starttls, tls), certificate, key. Each message is one line of JSON on
standard output. Recipients named refused@ are refused for good; later@ is put off the first time.
"""

import asyncio
import email
import email.policy
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

port, security, certificate, key = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
put_off = set()


def say(what):
    print(json.dumps(what), flush=True)


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("refused@"):
            return "550 no such mailbox"
        if address.startswith("later@") and address not in put_off:
            put_off.add(address)
            return "451 come again"
        envelope.rcpt_tos.append(address)
        return "250 fine"

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        say({
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "user": session.auth_data and session.auth_data.login.decode(),
            "tls": session.ssl is not None or security == "tls",
            "subject": message["Subject"],
            "id": message["Message-ID"],
            "auto": message["Auto-Submitted"],
            "text": message.get_content(),
        })
        return "250 taken"


def authenticate(server, session, envelope, mechanism, data):
    good = data.login == b"relevo" and data.password == b"s3cret-mail"
    return AuthResult(success=good, handled=False, auth_data=data)


async def main():
    context = None
    if security != "none":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)

    def connection():
        return SMTP(
            Handler(),
            hostname="localhost",
            tls_context=context if security == "starttls" else None,
            require_starttls=security == "starttls",
            authenticator=authenticate,
            auth_required=security != "none",
            auth_require_tls=security == "starttls",
            enable_SMTPUTF8=True,
        )

    loop = asyncio.get_running_loop()
    wrapped = context if security == "tls" else None
    server = await loop.create_server(connection, "127.0.0.1", port, ssl=wrapped)
    say({"listening": port})
    await server.serve_forever()


asyncio.run(main())
