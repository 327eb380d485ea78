"""Fill the service with items to look at, for `scripts/run --demo`."""

import json
import sys
import urllib.request

from lib.loopback import ask

THINGS = ("Lamp", "Desk", "Chair", "Shelf", "Clock", "Mirror", "Carpet", "Vase", "Sofa", "Stool")
NUMBER = 300
TIMEOUT = 30.0  # seconds, for one request


def fill(url: str) -> str:
    """Create the items, unless there are some already; return a line that says what was done."""
    try:
        with ask(f"{url}/items?limit=1", TIMEOUT) as response:
            if json.load(response)["items"]:
                return "there are items already"
        items = [_item(number) for number in range(NUMBER)]
        request = urllib.request.Request(  # noqa: S310 - our own address
            f"{url}/items/batch",
            json.dumps({"items": items}).encode(),
            {"Content-Type": "application/json"},
        )
        ask(request, TIMEOUT).close()
    except OSError as error:
        return f"no demo data: {error}"
    return f"created {NUMBER} items"


def _item(number: int) -> dict[str, object]:
    thing = THINGS[number % len(THINGS)]
    description = f"{thing} number {number}" if number % 3 else None
    return {"name": f"{thing}{number}", "price": 5 + number * 37 % 900 + 0.99, "description": description}


if __name__ == "__main__":
    print(f"demo: {fill(sys.argv[1])}")
