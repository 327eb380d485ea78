// A client that validates with ajv what it sends and what it gets: `node client.mjs URL`.
import Ajv from "ajv/dist/2020.js";
import addFormats from "ajv-formats";

const url = process.argv[2];
const document = await (await fetch(`${url}/openapi.json`)).json();
const ajv = new Ajv({ strict: false });
addFormats(ajv);
ajv.addSchema(document, "document");
let checked = 0;

function check(where, value) {
  const validate = ajv.getSchema(`document#${where}`);
  if (!validate(value)) throw new Error(`${where}: ${JSON.stringify(validate.errors)}`);
  checked += 1;
}

const pointer = (...parts) => parts.map((part) => "/" + encodeURIComponent(String(part).replaceAll("~", "~0").replaceAll("/", "~1"))).join("");

async function call(method, path, target, { body, query = {}, headers = {} } = {}) {
  const operation = document.paths[path][method];
  for (const [name, value] of Object.entries(query)) {
    const index = operation.parameters.findIndex((parameter) => parameter.name === name);
    check(pointer("paths", path, method, "parameters", index, "schema"), value);
  }
  if (body) check(pointer("paths", path, method, "requestBody", "content", "application/json", "schema"), body);
  const answer = await fetch(`${url}${target}?${new URLSearchParams(query)}`, {
    method: method.toUpperCase(),
    headers: { ...(body && { "content-type": "application/json" }), ...headers },
    body: body && JSON.stringify(body),
  });
  const type = answer.headers.get("content-type");
  const text = await answer.text();
  const json = text && JSON.parse(text);
  if (text) check(pointer("paths", path, method, "responses", answer.status, "content", type, "schema"), json);
  return { status: answer.status, etag: answer.headers.get("etag"), json };
}

function expect(answer, status, code) {
  const seen = answer.json?.detail?.code ?? answer.json?.code;
  if (answer.status !== status || (code && seen !== code)) throw new Error(`${status} ${code}: ${JSON.stringify(answer)}`);
  return answer;
}

// The schemas' own examples are valid.
function checkExamples(part, where) {
  if (part === null || typeof part !== "object") return;
  if (Array.isArray(part.examples)) for (const example of part.examples) check(where, example);
  if (part.schema && part.examples && !Array.isArray(part.examples))
    for (const { value } of Object.values(part.examples)) check(where + "/schema", value);
  for (const [name, member] of Object.entries(part)) if (name !== "examples") checkExamples(member, where + pointer(name));
}
checkExamples(document, "");

const [items, one] = ["/items", "/items/{item_id}"];
const prices = [19.99, 0.01, 1.1, 4.35, 9999999999.99, 24];
let last;
for (const price of prices) last = expect(await call("post", items, items, { body: { name: "Größe", price } }), 201);
const target = `${items}/${last.json.id}`;
expect(await call("get", one, target), 200);

const seen = [];
let page, cursor;
do {
  page = expect(await call("get", items, items, { query: { limit: 2, min_price: 0.07, max_price: 4611.13, ...(cursor && { cursor }) } }), 200);
  seen.push(...page.json.items.map((item) => item.price));
  cursor = page.json.next_cursor;
} while (cursor);
if (!prices.slice(2, 4).every((price) => seen.includes(price))) throw new Error(`listed ${seen}`);

expect(await call("patch", one, target, { body: { price: 5.25 }, headers: { "if-match": last.etag } }), 200);
expect(await call("patch", one, target, { body: { price: 5.26 }, headers: { "if-match": last.etag } }), 412, "PRECONDITION_FAILED");
expect(await call("get", one, `${items}/9007199254740991`), 404, "ITEM_NOT_FOUND");
expect(await call("get", one, `${items}/0`, { headers: { accept: "application/problem+json" } }), 422, "INVALID_INPUT");
expect(await call("delete", one, target), 204);
console.log(`${checked} values are valid`);
