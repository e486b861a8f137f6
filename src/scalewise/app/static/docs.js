// /openapi.json as a page.

const make = (kind, text, ...inside) => {
  const made = document.createElement(kind);
  if (text) made.textContent = text;
  made.append(...inside);
  return made;
};

const kindOf = (schema) => {
  const one = schema.anyOf?.find((option) => option.type !== "null") || schema;
  return one.format === "binary" || one.contentMediaType ? "file" : one.type || "";
};

function rowsOf(operation, schemas) {
  const rows = (operation.parameters || []).map((one) => [one.name, kindOf(one.schema), one.required, one.description || one.schema.description, one.schema.default]);
  for (const body of Object.values(operation.requestBody?.content || {})) {
    const schema = schemas[body.schema.$ref?.split("/").pop()] || body.schema;
    for (const [name, one] of Object.entries(schema.properties || {})) {
      rows.push([name, kindOf(one), schema.required?.includes(name), one.description, one.default]);
    }
  }
  return rows;
}

const { paths, components } = await (await fetch("/openapi.json")).json();
document.getElementById("place").textContent = location.origin;
const groups = new Map();
for (const [path, methods] of Object.entries(paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    const tag = operation.tags?.[0] || "others";
    if (!groups.has(tag)) groups.set(tag, []);
    groups.get(tag).push([method.toUpperCase(), path, operation]);
  }
}
for (const [tag, operations] of groups) {
  document.getElementById("docs").append(make("h2", tag));
  for (const [method, path, operation] of operations) {
    const summary = make("summary", "", make("b", method), make("code", path), make("span", operation.summary));
    const table = make("table", "", ...rowsOf(operation, components.schemas).map(([name, kind, required, what, usual]) =>
      make("tr", "", make("th", "", make("code", name)), make("td", `${kind}${required ? ", required" : usual === undefined ? "" : `, default ${usual}`}`), make("td", what || ""))));
    const statuses = Object.entries(operation.responses).map(([status, one]) => `${status} ${one.description}`).join(" · ");
    document.getElementById("docs").append(make("details", "", summary, make("p", operation.description || ""), table, make("p", statuses)));
  }
}
