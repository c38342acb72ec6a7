package awsconfig_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/cmkeeper/cmkeeper/awsconfig"
)

// TestTypesAreInTheSchema checks the table against the schema of the advanced query that AWS
// publishes: github.com/awslabs/aws-config-resource-schema, config/properties/resource-types.
// A type without a path to its key must have none there either.
func TestTypesAreInTheSchema(t *testing.T) {
	folder := os.Getenv("CMKEEPER_CONFIG_SCHEMA")
	if folder == "" {
		t.Skip("CMKEEPER_CONFIG_SCHEMA does not name the folder config/properties/resource-types of a clone of github.com/awslabs/aws-config-resource-schema")
	}
	namesKey := regexp.MustCompile(`(?i)kms.*key|encryption.*key`)
	for _, ty := range awsconfig.Types {
		properties := map[string]string{}
		doc, err := os.ReadFile(filepath.Join(folder, ty.Name+".properties.json"))
		switch {
		case errors.Is(err, fs.ErrNotExist) && len(ty.Keys) == 0:
			t.Logf("%s is not in the schema", ty.Name)
			continue
		case err != nil:
			t.Errorf("%s: %v", ty.Name, err)
			continue
		}
		if err := json.Unmarshal(doc, &properties); err != nil {
			t.Fatal(err)
		}
		for _, path := range ty.Keys {
			if properties[path] != "string" {
				t.Errorf("%s: %s is a %q in the schema", ty.Name, path, properties[path])
			}
		}
		if ty.Encrypted != "" && properties[ty.Encrypted] != "boolean" {
			t.Errorf("%s: %s is a %q in the schema", ty.Name, ty.Encrypted, properties[ty.Encrypted])
		}
		for path := range properties {
			if len(ty.Keys) == 0 && namesKey.MatchString(path) {
				t.Errorf("%s is said not to be found by its key, and the schema has %s", ty.Name, path)
			}
			if len(ty.Keys) > 0 && namesKey.MatchString(path) && !slices.Contains(ty.Keys, path) {
				t.Logf("%s: %s is not asked for", ty.Name, path)
			}
		}
	}
}

// TestTypes: kinds are ids, and each is there once.
func TestTypes(t *testing.T) {
	id := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	seen := map[string]bool{}
	for _, ty := range awsconfig.Types {
		if !id.MatchString(ty.Kind) || seen[ty.Kind] || seen[ty.Name] || ty.Title == "" || len(ty.Keys) == 0 && ty.Encrypted != "" {
			t.Errorf("%+v", ty)
		}
		seen[ty.Kind], seen[ty.Name] = true, true
		if awsconfig.TypeOf(ty.Name).Kind != ty.Kind {
			t.Errorf("TypeOf(%s) is another type", ty.Name)
		}
	}
	if got := awsconfig.TypeOf("AWS::New::Thing"); got.Kind != "AWS::New::Thing" || got.Title != got.Kind {
		t.Errorf("a type that is not known: %+v", got)
	}
}
