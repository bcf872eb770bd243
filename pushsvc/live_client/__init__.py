"""The receiving side of the live channel, over the official SDK `centrifuge-python`, for apps and tests in Python.

    pip install centrifuge-python

    from centrifuge import Client
    from pushsvc.live_client import FileStorage, LiveClient

    async def show(message):
        print(message.id, message.data.get("notification"))

    client = Client("wss://push.example.com/connection/websocket", token=token, get_token=get_token)
    live = LiveClient(client, show, storage=FileStorage("live.json"))
    await live.connect()

`token` is that of `POST /v1/devices/{id}/token`, which your server asks for, and the URL one of its `endpoints`;
`async def get_token()` returns a new one.

Messages come from four sources that overlap: the open connection, what is sent again, history, and the copies that a
provider brings. They meet here: each message is handled once, in the order of the device's stream, and acknowledged
after the app's handler has returned, which is when it was shown or stored. It does what `pushsvc-live.js` does in
JavaScript, and imports nothing of the service. `sequencer` decides what follows from each message, and `client` does
it.
"""

from .client import (
    FileStorage as FileStorage,
    LiveClient as LiveClient,
    Storage as Storage,
    connect_data as connect_data,
)
from .sequencer import (
    Ack as Ack,
    Drop as Drop,
    Handle as Handle,
    History as History,
    Message as Message,
    Missing as Missing,
    Position as Position,
    Publication as Publication,
    Retry as Retry,
    Sequencer as Sequencer,
    Show as Show,
    State as State,
    Step as Step,
)
