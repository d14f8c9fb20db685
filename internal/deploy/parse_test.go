package deploy_test

import (
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"gatehouse/internal/deploy"
)

// TestComposeProject loads the file as docker compose config does, by the same
// library.
func TestComposeProject(t *testing.T) {
	each(t, func(t *testing.T, f deploy.Format, o deploy.Options, files []deploy.File) {
		if f.Name != "compose" {
			return
		}
		project, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
			WorkingDir:  t.TempDir(),
			ConfigFiles: []types.ConfigFile{{Filename: "compose.yaml", Content: []byte(files[0].Text)}},
			Environment: types.Mapping{},
		}, loader.WithProfiles([]string{"pull"}))
		if err != nil {
			t.Fatal(err)
		}
		if len(project.Services) != 3 {
			t.Errorf("%d services", len(project.Services))
		}
		for name, s := range project.Services {
			for _, p := range s.Ports {
				if name != "gate" || p.Target != 8443 && p.Target != 8080 {
					t.Errorf("%s publishes %+v", name, p)
				}
			}
			if s.Privileged || s.NetworkMode != "" || len(s.CapAdd) > 0 {
				t.Errorf("%s: privileged %v, network %q, %v", name, s.Privileged, s.NetworkMode, s.CapAdd)
			}
		}
		pull := project.Services["pull"]
		if got := strings.Join(pull.Command, " "); got != strings.Join(o.Models, " ") {
			t.Errorf("pull fetches %q, want %q", got, o.Models)
		}
		if script := pull.Entrypoint[2]; !strings.Contains(script, `for m in "$@"`) {
			t.Errorf("pull runs %s", script)
		}
		if (o.GPU == "nvidia") != (project.Services["ollama"].Deploy != nil) {
			t.Errorf("GPU %q: %+v", o.GPU, project.Services["ollama"].Deploy)
		}
		if text := project.Configs["gate"].Content; !strings.Contains(text, "listen:") {
			t.Errorf("the gate's configuration: %s", text)
		}
	})
}

// TestTerraformValue has Terraform's own parser read main.tf: what it makes of
// the local is the user data.
func TestTerraformValue(t *testing.T) {
	cloudInit, _ := deploy.Find("cloud-init")
	each(t, func(t *testing.T, f deploy.Format, o deploy.Options, files []deploy.File) {
		if f.Name != "terraform" {
			return
		}
		file, wrong := hclsyntax.ParseConfig([]byte(files[0].Text), "main.tf", hcl.InitialPos)
		if wrong.HasErrors() {
			t.Fatal(wrong)
		}
		want, err := cloudInit.Write(o)
		if err != nil {
			t.Fatal(err)
		}
		blocks := file.Body.(*hclsyntax.Body).Blocks
		if len(blocks) != 2 || blocks[0].Type != "locals" || blocks[1].Type != "output" {
			t.Fatalf("%d blocks", len(blocks))
		}
		value, wrong := blocks[0].Body.Attributes["gatehouse_user_data"].Expr.Value(nil)
		if wrong.HasErrors() {
			t.Fatal(wrong)
		}
		if got := value.AsString(); got != want[0].Text {
			t.Errorf("Terraform makes of it\n%s\nwant\n%s", got, want[0].Text)
		}
	})
}
