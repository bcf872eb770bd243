// Sends a push, looks at its status, and sends two in one call: with types that are made of the OpenAPI document.

import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

declare const process: { argv: string[] };
const [, , baseUrl = "", token = ""] = process.argv;

const client = createClient<paths>({ baseUrl, headers: { Authorization: "Bearer pusher" } });
const body: components["schemas"]["PushDocument"] = {
  to: { tokens: [{ platform: "apns", token }] },
  notification: { title: "Order 7 shipped" },
};

const accepted = await client.POST("/v1/push", { body });
if (!accepted.data) throw new Error(accepted.error.detail);
const status = await client.GET("/v1/push/{id}", { params: { path: { id: accepted.data.id } } });
if (!status.data) throw new Error(status.error.detail);
const batch = await client.POST("/v1/push/batch", { body: [body, body] });
if (!batch.data) throw new Error(batch.error.detail);
console.log(status.data.id, ...batch.data.results.map((result) => result.id));
