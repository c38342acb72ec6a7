package deploy_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/deploy"
)

// snake is a name of the template as Terraform writes it.
func snake(name string) string {
	var b strings.Builder
	for i, r := range name {
		if i > 0 && r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}

// terraformType is a parameter's type, its default as Terraform writes it, and what makes
// the text of a parameter of the variable.
func terraformType(p deploy.Parameter, variable string) (kind, byDefault, text string) {
	switch {
	case p.Type == "CommaDelimitedList" || strings.HasPrefix(p.Type, "List<"):
		byDefault = "[]"
		if p.Default != "" {
			byDefault = "[" + strconv.Quote(p.Default) + "]"
		}
		return "list(string)", byDefault, `join(",", ` + variable + ")"
	case p.Type == "Number":
		return "number", p.Default, "tostring(" + variable + ")"
	case slices.Equal(p.AllowedValues, []string{"true", "false"}):
		return "bool", p.Default, "tostring(" + variable + ")"
	}
	return "string", strconv.Quote(p.Default), variable
}

// validations are the conditions on a variable that the template has on the parameter.
func validations(p deploy.Parameter, name string) (all [][2]string) {
	quoted := func(list []string, each func(string) string) string {
		var parts []string
		for _, s := range list {
			parts = append(parts, each(s))
		}
		return strings.Join(parts, ", ")
	}
	kind, _, _ := terraformType(p, "")
	switch {
	case kind == "number" && p.AllowedValues != nil:
		all = append(all, [2]string{"contains([" + strings.Join(p.AllowedValues, ", ") + "], var." + name + ")", "must be one of " + strings.Join(p.AllowedValues, ", ")})
	case kind == "string" && p.AllowedValues != nil:
		all = append(all, [2]string{"contains([" + quoted(p.AllowedValues, strconv.Quote) + "], var." + name + ")", "must be one of " + strings.Join(p.AllowedValues, ", ")})
	case kind == "number":
		all = append(all, [2]string{fmt.Sprintf("var.%s >= %d && var.%s <= %d", name, p.MinValue, name, p.MaxValue), fmt.Sprintf("must be from %d to %d", p.MinValue, p.MaxValue)})
	}
	if p.AllowedPattern != "" {
		all = append(all, [2]string{"can(regex(" + strconv.Quote("^(?:"+p.AllowedPattern+")$") + ", var." + name + "))", "must have the form that its description names"})
	}
	return all
}

// module returns the files of the Terraform module that are made from the template.
func module(t *deploy.Template) map[string]string {
	const header = "# Made from ../cloudformation/cmkeeper.yaml: UPDATE_DOCS=1 go test ./deploy -run Terraform\n\n"
	variables, parameters, outputs := header, header+"locals {\n  parameters = {\n", header
	longest := 0
	for name := range t.Parameters {
		longest = max(longest, len(name))
	}
	for i, name := range slices.Sorted(maps.Keys(t.Parameters)) {
		p := t.Parameters[name]
		kind, byDefault, text := terraformType(p, "var."+snake(name))
		if i > 0 {
			variables += "\n"
		}
		variables += fmt.Sprintf("variable %q {\n  description = %s\n  type        = %s\n", snake(name), strconv.Quote(p.Description), kind)
		if !p.Required {
			variables += "  default     = " + byDefault + "\n"
		}
		for _, v := range validations(p, snake(name)) {
			variables += fmt.Sprintf("\n  validation {\n    condition     = %s\n    error_message = %q\n  }\n", v[0], snake(name)+" "+v[1]+".")
		}
		variables += "}\n"
		parameters += fmt.Sprintf("    %-*s = %s\n", longest, name, text)
	}
	for i, name := range slices.Sorted(maps.Keys(t.Outputs)) {
		output := t.Outputs[name].(map[string]any)
		value := "aws_cloudformation_stack.this.outputs[" + strconv.Quote(name) + "]"
		if output["Condition"] != nil {
			value = "try(" + value + ", null)"
		}
		if i > 0 {
			outputs += "\n"
		}
		outputs += fmt.Sprintf("output %q {\n  description = %s\n  value       = %s\n}\n", snake(name), strconv.Quote(output["Description"].(string)), value)
	}
	return map[string]string{"variables.tf": variables, "parameters.tf": parameters + "  }\n}\n", "outputs.tf": outputs}
}

func TestTerraformModule(t *testing.T) {
	for name, want := range module(template(t)) {
		file := "terraform/" + name
		if os.Getenv("UPDATE_DOCS") != "" {
			if err := os.WriteFile(file, []byte(want), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		was, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(was)); diff != "" {
			t.Errorf("UPDATE_DOCS=1 go test ./deploy -run Terraform: %s (-template +file):\n%s", name, diff)
		}
	}
}

// TestTerraformExamples: the examples set variables that exist, and those without a default.
func TestTerraformExamples(t *testing.T) {
	declared := map[string]bool{"source": false, "name": false, "template_bucket": true, "tags": false} // those of main.tf
	for name, p := range template(t).Parameters {
		declared[snake(name)] = p.Required
	}
	examples, err := filepath.Glob("terraform/examples/*/main.tf")
	if err != nil || len(examples) < 2 {
		t.Fatalf("%d examples, %v", len(examples), err)
	}
	for _, example := range examples {
		text, err := os.ReadFile(example)
		if err != nil {
			t.Fatal(err)
		}
		_, block, _ := strings.Cut(string(text), "module \"cmkeeper\" {\n")
		block, _, _ = strings.Cut(block, "\n}\n")
		set := map[string]bool{}
		for line := range strings.Lines(block) {
			name, _, ok := strings.Cut(strings.TrimSpace(line), " ")
			if _, known := declared[name]; ok && !known {
				t.Errorf("%s: there is no variable %s", example, name)
			}
			set[name] = true
		}
		for name, required := range declared {
			if required && !set[name] {
				t.Errorf("%s does not set %s", example, name)
			}
		}
	}
}
