"""``make simulator``, or ``python -m testkit.simulator [--port N] [--send URL --secret S --count N]``.

Simulates CXone and the scoring container on this machine until Ctrl-C. With --send it posts interactions to a
webhook instead, as CXone does: each one three times, as JSON under a form content type.
"""

import argparse
import sys
import threading

from testkit.simulator import BEHAVIOURS, Simulator, deliver

TEXT = """\
Settings for the relay:

{settings}

Endpoints: score, token, contact. Each responds normally until you set its behaviours, one for each request; the
last one stays:

  curl {base}/behave/score -d '500 429:5 ok'

Behaviours:

{behaviours}
To post interactions to a webhook as CXone does:

  python -m testkit.simulator --send http://127.0.0.1:8000/webhook/cxone-data-action --secret SECRET --count 10
"""


def main() -> None:
    """Run the simulator, or send."""
    parser = argparse.ArgumentParser(
        prog="python -m testkit.simulator", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=9500, help="port to listen on (default: %(default)s)")
    parser.add_argument("--send", metavar="URL", help="post interactions to this webhook instead")
    parser.add_argument("--secret", default="", help="the webhook's secret")
    parser.add_argument("--count", type=int, default=10, help="number of interactions to post")
    options = parser.parse_args()
    if options.send:
        for number in range(options.count):
            body = {"id": f"simulated-{number}", "channel": "voice", "turn": number}
            try:
                responses = deliver(options.send, options.secret, body)
            except OSError as error:  # as every error of requests is
                sys.exit(f"{options.send} cannot be reached ({type(error).__name__}): is the web process running?")
            sys.stdout.write(" ".join(f"{each.status_code} {each.text.strip()}" for each in responses) + "\n")
        return
    try:
        simulator = Simulator(options.port)
    except OSError as error:
        sys.exit(f"port {options.port} cannot be used ({error.strerror}): choose another one with --port")
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
