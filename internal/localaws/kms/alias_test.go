package kms

import (
	"strings"
	"testing"
)

func TestCheckName(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{
		"alias/a": true, "alias/app/key_1-a": true, "alias/" + strings.Repeat("a", 250): true,
		"": false, "alias/": false, "a": false, "alias/a.b": false, "alias/ü": false, "alias/aws/s3": false,
		"alias/" + strings.Repeat("a", 251): false,
	} {
		if err := checkName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}
