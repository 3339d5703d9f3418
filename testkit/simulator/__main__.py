"""``make simulator``, or ``python -m testkit.simulator [--port N] [--send URL --secret S --count N]``.

Plays CXone and the scoring container on this machine until Ctrl-C. With --send it plays the sender
instead: it posts interactions to a webhook, each one three times, as JSON under a form content type.
"""

import argparse
import sys
import threading

from testkit.simulator import BEHAVIOURS, Simulator, deliver

TEXT = """\
Settings for the relay:

{settings}

Places: score, token, contact. Each answers well until told otherwise, from anywhere:

  curl {base}/behave/score -d '500 429:5 ok'     three requests meet these; the last one stays

Behaviours:

{behaviours}
To post interactions to a webhook as CXone does:

  python -m testkit.simulator --send http://127.0.0.1:8000/webhook/cxone-data-action --secret SECRET --count 10
"""


def main() -> None:
    """Run as the module's text tells."""
    parser = argparse.ArgumentParser(
        prog="python -m testkit.simulator", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=9500)
    parser.add_argument("--send", metavar="URL", help="post interactions there instead")
    parser.add_argument("--secret", default="", help="of the webhook")
    parser.add_argument("--count", type=int, default=10, help="of interactions to post")
    options = parser.parse_args()
    if options.send:
        for number in range(options.count):
            body = {"id": f"simulated-{number}", "channel": "voice", "turn": number}
            try:
                answers = deliver(options.send, options.secret, body)
            except OSError as error:  # as every error of requests is
                sys.exit(f"{options.send} does not answer ({type(error).__name__}): is the web process there?")
            sys.stdout.write(" ".join(f"{answer.status_code} {answer.text.strip()}" for answer in answers) + "\n")
        return
    try:
        simulator = Simulator(options.port)
    except OSError as error:
        sys.exit(f"port {options.port} cannot be served: {error.strerror}; --port takes another one")
    settings = "\n".join(f"export {n}='{v}'" for n, v in {**simulator.inference, **simulator.enrichment}.items())
    behaviours = "".join(f"  {line}\n" for line in BEHAVIOURS.splitlines())
    sys.stdout.write(TEXT.format(settings=settings, base=simulator.base, behaviours=behaviours))
    sys.stdout.flush()
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        simulator.close()


if __name__ == "__main__":
    main()
