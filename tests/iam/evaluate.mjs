// What IAM decides of calls, by iam-simulate, which is installed below the folder that is the argument.
// stdin: {policy, principal, calls: [{action, resource, context}]}. stdout, for each call: {decision, error,
// by: [{statement, actions, resources}]}, the statements that allow it and what of them matched.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const installed = createRequire(`${process.argv[2]}/`).resolve("@cloud-copilot/iam-simulate");
const { runSimulation } = await import(pathToFileURL(installed));
const { policy, principal, calls } = JSON.parse(readFileSync(0, "utf8"));
const accountId = principal.split(":")[4];
const everything = { Version: "2012-10-17", Statement: [{ Effect: "Allow", Action: "*", Resource: "*" }] };

async function decide({ action, resource: asked, context }) {
  // A call for all repositories asks for `repository/*`, letter by letter; here an asterisk would match any of them.
  const resource = asked === "*" ? asked : asked.replaceAll("*", "ALL");
  const answer = await runSimulation({
    request: { principal, action, resource: { resource, accountId }, contextVariables: context },
    identityPolicies: [{ name: "policy", policy }],
    serviceControlPolicies: [{ orgIdentifier: "root", policies: [{ name: "all", policy: everything }] }],
    resourceControlPolicies: [],
  }, {});
  if (answer.resultType === "error") return { decision: "Error", error: answer.errors, by: [] };
  const results = answer.resultType === "single" ? [answer.result] : answer.results;
  const allowing = results.flatMap((one) => one.analysis?.identityAnalysis?.allowStatements ?? []);
  const matched = (items, name) => [items ?? []].flat().filter((one) => one.matches).map((one) => one[name]);
  const by = allowing.map(({ explain }) => ({
    statement: explain.identifier,
    actions: matched(explain.actions, "action"),
    resources: matched(explain.resources, "resource"),
  }));
  return { decision: answer.overallResult, by };
}

console.log(JSON.stringify(await Promise.all(calls.map(decide))));
