// Validates resources of other projects against the schemas of their own CRDs. Reads a JSON list, writes a JSON list of faults.
// It must lie beside the node_modules that hold @kubernetes-models.
import { readFileSync } from "node:fs";

const PACKAGES = {
  "external-secrets.io/v1": "external-secrets/external-secrets.io/v1beta1", // promoted without a change to what we use
  "external-secrets.io/v1beta1": "external-secrets/external-secrets.io/v1beta1",
  "gateway.networking.k8s.io/v1": "gateway-api/gateway.networking.k8s.io/v1",
  "keda.sh/v1alpha1": "keda/keda.sh/v1alpha1",
  "monitoring.coreos.com/v1": "prometheus-operator/monitoring.coreos.com/v1",
};

const faults = [];
for (const resource of JSON.parse(readFileSync(0, "utf8"))) {
  const name = `${resource.kind}/${resource.metadata.name}`;
  const found = PACKAGES[resource.apiVersion];
  if (!found) {
    faults.push(`${name}: no schema for ${resource.apiVersion}`);
    continue;
  }
  const Model = (await import(`@kubernetes-models/${found}`))[resource.kind];
  try {
    // The model knows its own version, and takes no other.
    const { apiVersion, ...rest } = resource;
    new Model(rest).validate();
  } catch (error) {
    faults.push(`${name}: ${error.message}`);
  }
}
process.stdout.write(JSON.stringify(faults));
