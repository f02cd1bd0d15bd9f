// node node_client.mjs BASE [PATH-OF-UNDICI]: exercises the built-in fetch, or that of undici; prints the outcome as JSON.

import { webcrypto as crypto } from "node:crypto"; // not a global before Node 19
import { createRequire } from "node:module";
import { exercise } from "./exercise.mjs";

const [, , base, path] = process.argv;
if (path === undefined) {
  const { fetch, WebSocket, EventSource } = globalThis;
  console.log(JSON.stringify(await exercise(base, { fetch, WebSocket, EventSource, crypto })));
} else {
  const { Client, EventSource, WebSocket, fetch, request } = createRequire(import.meta.url)(path);
  const outcome = {};
  const plain = await request(base + "/echo", { method: "PUT", body: "x".repeat(70_000) });
  outcome.undici = [plain.statusCode, (await plain.body.json()).length];

  const client = new Client(base, { pipelining: 10 });
  const ask = async (number) => {
    const { statusCode, body } = await client.request({ path: `/echo?${number}`, method: "GET" });
    return statusCode === 200 && (await body.json()).target === `/echo?${number}`;
  };
  outcome.pipelined = (await Promise.all([...Array(200).keys()].map(ask))).filter(Boolean).length;
  await client.close();
  Object.assign(outcome, await exercise(base, { fetch, WebSocket, EventSource, crypto }));
  console.log(JSON.stringify(outcome));
}
process.exit(0);
