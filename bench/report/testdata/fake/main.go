// Command fake is a benchmark that ends as it is told.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	how, out := os.Args[1], os.Args[3]
	if how == "good" || how == "half" {
		text := fmt.Sprintf(`{"machine":{},"commands":{"x":"x -c %s"},"rows":[{"bench":"x","series":"x","x":1,"y":1,"unit_y":"s","round":1,"peer":"x"}]}`,
			filepath.Join(os.TempDir(), "x123", "x.conf"))
		if err := os.WriteFile(out, []byte(text), 0o600); err != nil {
			panic(err)
		}
	}
	switch how {
	case "half", "fail":
		fmt.Fprintln(os.Stderr, "it works\nit broke off")
		os.Exit(1)
	case "panic":
		panic("it fell over")
	case "slow":
		told := make(chan os.Signal, 1)
		signal.Notify(told, syscall.SIGTERM)
		<-told
		os.Exit(1)
	}
}
