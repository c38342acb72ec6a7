package cli

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	_ "github.com/cmkeeper/cmkeeper/internal/testgc" // accounts that live for one test are garbage soon
)

// asCommand has the test's binary be cmkeeper, for scripts that run it.
const asCommand = "TEST_BINARY_IS_CMKEEPER"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		_ = os.Unsetenv(asCommand)
		os.Exit(Main(os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// TestAction runs the script of the GitHub Action on policies in a repository.
func TestAction(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("there is no shell here, and the action needs one")
	}
	script := must(filepath.Abs("../../action.sh"))(t)
	repository := t.TempDir()
	for _, name := range []string{"best.json", "worst.json"} {
		text := must(os.ReadFile(filepath.Join(policies, name)))(t)
		path := filepath.Join(repository, "key policies", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests := map[string]struct {
		inputs map[string]string
		code   int
		log    string   // in what people read
		rules  []string // in the SARIF, nil where there is none
	}{
		"good":                   {map[string]string{"FILES": "key policies/best.json"}, exitOK, "no findings", []string{}},
		"bad":                    {map[string]string{"FILES": "key policies/*.json\n"}, exitError, "public-principal", []string{"public-principal"}},
		"bad, and never fail":    {map[string]string{"FILES": "key policies/best.json\nkey policies/worst.json", "FAIL_ON": "none"}, exitOK, "public-principal", []string{"public-principal"}},
		"accounts of the inputs": {map[string]string{"FILES": "key policies/best.json", "ACCOUNT": "999988887777", "TRUSTED_ACCOUNTS": "111122223333, 222233334444", "TRUSTED_ORGS": "o-a1b2c3d4e5", "FAIL_ON": "none"}, exitOK, "account 999988887777", []string{"lockout"}},
		"no files":               {map[string]string{"FILES": "\n"}, exitUsage, "no files are named", nil},
		"a pattern of nothing":   {map[string]string{"FILES": "nowhere/*.json"}, exitUsage, "no such file", []string{}},
		"a severity that is not": {map[string]string{"FILES": "key policies/best.json", "FAIL_ON": "awful"}, exitUsage, "awful", nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			results := t.TempDir()
			inputs := map[string]string{
				"ACCOUNT": "111122223333", "TRUSTED_ACCOUNTS": "", "TRUSTED_ORGS": "", "FAIL_ON": "high",
				"SARIF_FILE": filepath.Join(results, "cmkeeper.sarif"), "GITHUB_OUTPUT": filepath.Join(results, "output"),
				"CMKEEPER": must(os.Executable())(t), asCommand: "yes",
			}
			for k, v := range tt.inputs {
				inputs[k] = v
			}
			command := exec.CommandContext(t.Context(), "sh", script)
			command.Dir, command.Env = repository, []string{"PATH=" + os.Getenv("PATH")} // and nothing of the tests' own variables
			for k, v := range inputs {
				command.Env = append(command.Env, k+"="+v)
			}
			log, _ := command.CombinedOutput()
			if code := command.ProcessState.ExitCode(); code != tt.code || !strings.Contains(string(log), tt.log) {
				t.Errorf("exit code %d, want %d; %q should be in:\n%s", code, tt.code, tt.log, log)
			}
			if tt.rules == nil {
				return
			}
			if got := string(must(os.ReadFile(inputs["GITHUB_OUTPUT"]))(t)); got != "sarif-file="+inputs["SARIF_FILE"]+"\n" {
				t.Errorf("the output is %q", got)
			}
			checkRules(t, must(os.ReadFile(inputs["SARIF_FILE"]))(t), tt.rules)
		})
	}
}

// checkRules wants results of these rules in SARIF, or none at all.
func checkRules(t *testing.T, text []byte, rules []string) {
	t.Helper()
	var sarif struct {
		Version string
		Runs    []struct{ Results []struct{ RuleID string } }
	}
	if err := json.Unmarshal(text, &sarif); err != nil || sarif.Version != "2.1.0" || len(sarif.Runs) != 1 {
		t.Fatalf("%v: %.500s", err, text)
	}
	found := map[string]bool{}
	for _, r := range sarif.Runs[0].Results {
		found[r.RuleID] = true
	}
	for _, rule := range rules {
		if !found[rule] {
			t.Errorf("the SARIF has no %s, but %v", rule, found)
		}
	}
	if len(rules) == 0 && len(found) > 0 {
		t.Errorf("the SARIF has %v", found)
	}
}

// TestActionGivesItsInputs wants every input of the action in the environment of its
// script, and nothing there that the script does not read.
func TestActionGivesItsInputs(t *testing.T) {
	action := string(must(os.ReadFile("../../action.yml"))(t))
	script := string(must(os.ReadFile("../../action.sh"))(t))
	declared, rest, _ := strings.Cut(action, "\noutputs:\n")
	var inputs, given, read []string
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z-]+):$`).FindAllStringSubmatch(declared, -1) {
		inputs = append(inputs, m[1])
	}
	for _, m := range regexp.MustCompile(`(?m)^        ([A-Z_]+): \$\{\{ inputs\.([a-z-]+) \}\}$`).FindAllStringSubmatch(rest, -1) {
		given = append(given, m[2])
		if strings.ToUpper(strings.ReplaceAll(m[2], "-", "_")) != m[1] {
			t.Errorf("the input %s is in %s", m[2], m[1])
		}
		if regexp.MustCompile(`\$` + m[1] + `\b`).MatchString(script) {
			read = append(read, m[2])
		}
	}
	if diff := cmp.Diff(inputs, given); diff != "" || len(inputs) == 0 {
		t.Errorf("inputs, and those that the script is given:\n%s", diff)
	}
	if diff := cmp.Diff(given, read); diff != "" {
		t.Errorf("what the script is given, and what it reads:\n%s", diff)
	}
}

// TestPreCommitHook runs what pre-commit runs for the files that it would choose.
func TestPreCommitHook(t *testing.T) {
	hook := string(must(os.ReadFile("../../.pre-commit-hooks.yaml"))(t))
	part := func(name string) string {
		m := regexp.MustCompile(`(?m)^  ` + name + `: (.+)$`).FindStringSubmatch(hook)
		if m == nil {
			t.Fatalf("the hook has no %s", name)
		}
		return m[1]
	}
	args := strings.Fields(part("entry"))
	if args[0] != "cmkeeper" {
		t.Fatalf("the hook runs %s", args[0])
	}
	for file, want := range map[string]int{"best.json": exitOK, "worst.json": exitError} {
		if code, out, errs := policyCommand(t, append(args[2:], policies+file)...); code != want || args[1] != "policy" {
			t.Errorf("%s: exit code %d, want %d: %s%s", file, code, want, out, errs)
		}
	}
	chosen := regexp.MustCompile(part("files"))
	for file, want := range map[string]bool{
		"key-policies/orders.json": true, "infra/kms/key-policy.json": true, "key-policy-orders.json": true,
		"policies/bucket.json": false, "key-policies/README.md": false, "monkey-policies/a.json": false,
	} {
		if chosen.MatchString(file) != want {
			t.Errorf("%s is chosen: %v", file, !want)
		}
	}
}

// TestActionsArePinned wants every action of others by its commit, with the version beside
// it, and no workflow with permissions that its jobs do not ask for.
func TestActionsArePinned(t *testing.T) {
	uses, pinned := regexp.MustCompile(`(?m)uses: (.+)$`), regexp.MustCompile(`^[a-z-]+/[a-z/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`)
	workflows := must(filepath.Glob("../../.github/workflows/*.yml"))(t)
	n := 0
	for _, file := range append(workflows, "../../action.yml") {
		text := string(must(os.ReadFile(file))(t))
		for _, m := range uses.FindAllStringSubmatch(text, -1) {
			n++
			if !strings.HasPrefix(m[1], "./") && !pinned.MatchString(m[1]) {
				t.Errorf("%s uses %s", filepath.Base(file), m[1])
			}
		}
		if filepath.Base(file) != "action.yml" && !strings.Contains(text, "\npermissions: {}\n") {
			t.Errorf("%s gives its jobs permissions by default", filepath.Base(file))
		}
	}
	if n == 0 {
		t.Error("nothing is used")
	}
}
