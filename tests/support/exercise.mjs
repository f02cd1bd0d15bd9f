// What every client that speaks JavaScript does with the proxy in front of echo_app: in Node and in a browser.

const ROUNDS = 20;

const hex = (buffer) => [...new Uint8Array(buffer)].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** Returns one value per step; a step that fails has `failed: why` as its value, one that is not possible here none. */
export async function exercise(base, { fetch, WebSocket, EventSource, crypto, isBrowser }) {
  const outcome = {};
  const ask = async (path, options) => {
    const answer = await fetch(base + path, options);
    if (!answer.ok) throw new Error(`${path} answered ${answer.status}`);
    return answer;
  };
  const echo = async (path = "/echo", options) => (await ask(path, options)).json();
  const field = (document, name) => document.fields.filter(([key]) => key === name).map(([, value]) => value);
  const step = async (name, work) => {
    try {
      outcome[name] = await work();
    } catch (error) {
      outcome[name] = `failed: ${error} ${error.cause ?? ""}`;
    }
  };

  await step("get", async () => {
    const document = await echo("/echo?a=%C3%A9&b", { headers: { "X-Text": "one" } });
    return [document.method, document.target, field(document, "x-text"), field(document, "via")];
  });
  await step("head", async () => {
    const answer = await ask("/large", { method: "HEAD" });
    return [answer.headers.get("content-length"), (await answer.text()).length];
  });
  await step("post", async () => {
    const body = new Uint8Array(1 << 20).fill(7);
    const document = await echo("/echo", { method: "POST", body });
    return [document.length, field(document, "content-length"), document.sha256 === hex(await crypto.subtle.digest("SHA-256", body))];
  });
  if (!isBrowser) // a browser streams a request body over HTTP/2 only
    await step("chunked", async () => {
      const parts = ["chunk ", "by ", "chunk"];
      const body = new ReadableStream({
        pull: (controller) => (parts.length ? controller.enqueue(new TextEncoder().encode(parts.shift())) : controller.close()),
      });
      const document = await echo("/echo", { method: "POST", body, duplex: "half" });
      return [document.length, field(document, "transfer-encoding")];
    });
  await step("gzip", async () => {
    const answer = await ask("/gzip");
    return [answer.headers.get("content-encoding"), (await answer.text()).length];
  });
  await step("redirect", async () => {
    const answer = await ask("/redirect/303", { method: "POST", body: "form" });
    return [answer.redirected, (await answer.json()).method, new URL(answer.url).pathname];
  });
  if (isBrowser) await step("cookies", async () => (await echo("/login")).cookies);
  await step("large", async () => {
    const answer = await ask("/large");
    const body = await answer.arrayBuffer();
    return [body.byteLength, hex(await crypto.subtle.digest("SHA-256", body)) === answer.headers.get("x-sha256")];
  });
  await step("stream", async () => {
    const id = Math.random().toString(36);
    const reader = (await ask(`/stream?id=${id}`)).body.getReader();
    const pieces = [];
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return pieces;
      pieces.push(new TextDecoder().decode(value));
      if (pieces.length < 3) await ask(`/step?id=${id}`, { method: "POST" });
    }
  });
  if (EventSource)
    await step("events", () =>
      new Promise((resolve, reject) => {
        const heard = [];
        const source = new EventSource(base + "/events");
        source.onmessage = (event) => heard.push(event.data);
        source.addEventListener("over", () => (source.close(), resolve(heard)));
        source.onerror = () => (source.close(), reject(new Error("the event stream broke")));
      }));
  if (WebSocket)
    await step("websocket", () =>
      new Promise((resolve, reject) => {
        const heard = [];
        const socket = new WebSocket(base.replace("http", "ws") + "/ws", "echo");
        socket.binaryType = "arraybuffer";
        socket.onopen = () => socket.send("hello");
        socket.onmessage = ({ data }) => {
          heard.push(typeof data === "string" ? data.replace(/^\w+: /, "") : data.byteLength);
          if (heard.length === 1) socket.send(new Uint8Array(300_000));
          else socket.close(1000);
        };
        socket.onclose = ({ code, wasClean }) => resolve([socket.protocol, ...heard, code, wasClean]);
        socket.onerror = () => reject(new Error("the WebSocket broke"));
      }));
  await step("switch", async () => {
    const apps = [];
    const round = async () => {
      for (let number = 0; number < ROUNDS; number += 1) apps.push((await echo()).app);
    };
    await round();
    apps.push((await echo("/pause")).app);
    await round();
    return apps;
  });
  return outcome;
}
