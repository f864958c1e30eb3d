// Reads a project with the library that `sf project deploy start` uses, by folder and by package.xml, and makes of it
// what goes to an org.
// usage: node source-deploy-retrieve.cjs PROJECT OUT -> {"source": [...], "manifest": [...]}, each "TYPE:NAME"
const [project, out] = process.argv.slice(2);
const { ComponentSet, MetadataConverter } = require('@salesforce/source-deploy-retrieve');

async function main() {
  const names = (set) => [...set.getSourceComponents()].map((it) => `${it.type.name}:${it.fullName}`).sort();
  const source = ComponentSet.fromSource(`${project}/force-app`);
  const manifest = await ComponentSet.fromManifest({
    manifestPath: `${project}/manifest/package.xml`,
    resolveSourcePaths: [`${project}/force-app`],
  });
  const target = { type: 'directory', outputDirectory: out, genUniqueDir: false };
  await new MetadataConverter().convert(source, 'metadata', target);
  console.log(JSON.stringify({ source: names(source), manifest: names(manifest) }));
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 2;
});
