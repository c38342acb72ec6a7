package s3

import (
	"strings"
	"testing"
)

func TestCheckTags(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		tag tag
		ok  bool
	}{
		"plain":                   {tag{Key: "team", Value: "billing"}, true},
		"every sign":              {tag{Key: "_.:/=+-@ ü数7", Value: "_.:/=+-@ ü数7"}, true},
		"longest":                 {tag{Key: strings.Repeat("ü", 128), Value: strings.Repeat("ü", 256)}, true},
		"empty value":             {tag{Key: "team"}, true},
		"empty key":               {tag{Value: "billing"}, false},
		"key too long":            {tag{Key: strings.Repeat("ü", 129)}, false},
		"value too long":          {tag{Key: "team", Value: strings.Repeat("ü", 257)}, false},
		"sign in key":             {tag{Key: "te#am"}, false},
		"sign in value":           {tag{Key: "team", Value: "bill\ting"}, false},
		"key that is no UTF-8":    {tag{Key: "te\xffam"}, false},
		"key that S3 has for AWS": {tag{Key: "aws:team"}, false},
	} {
		if err := checkTags([]tag{test.tag}, maxObjectTags); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
