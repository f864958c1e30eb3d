# Runs a recipe of docs/integrate/oauth-clients.md: each line of the input is a query, and each line of the output its result.
# usage: python driver.py FILE
import importlib.util
import json
import sys

spec = importlib.util.spec_from_file_location("recipe", sys.argv[1])
recipe = None
print('"ready"', flush=True)
for line in sys.stdin:
    try:
        if recipe is None:
            loaded = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(loaded)
            recipe = loaded
        result = {"records": recipe.query(line.strip())}
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(result), flush=True)
