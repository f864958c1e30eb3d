// Runs the recipe of docs/integrate/oauth-clients.md: each line of the input is a query, and each line of the output its result.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	fmt.Println(`"ready"`)
	results := json.NewEncoder(os.Stdout)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		records, err := query(context.Background(), lines.Text())
		if err != nil {
			results.Encode(map[string]any{"error": err.Error()})
		} else {
			results.Encode(map[string]any{"records": records})
		}
	}
}
