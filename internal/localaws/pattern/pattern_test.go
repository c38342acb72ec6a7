package pattern_test

import (
	"strings"
	"testing"

	"github.com/cmkeeper/cmkeeper/internal/localaws/pattern"
)

const event = `{
	"source": "aws.kms", "account": "123456789012", "empty": [], "nothing": null, "flag": true, "size": 7.0,
	"resources": ["arn:a", "arn:b"],
	"detail": {"eventName": "DisableKeyRotation", "list": [{"a": 1, "b": 1}, {"a": 2, "b": 2}]}
}`

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern string
		want    bool
	}{
		{`{"source":["aws.kms"]}`, true},
		{`{"source":["aws.s3","aws.kms"]}`, true},
		{`{"source":["AWS.KMS"]}`, false},
		{`{"source":["aws.kms"],"account":["1"]}`, false},
		{`{"detail":{"eventName":["DisableKeyRotation"]}}`, true},
		{`{"detail":{"eventName":[{"prefix":"Disable"}]}}`, true},
		{`{"detail":{"eventName":[{"prefix":"Enable"}]}}`, false},
		{`{"detail":{"eventName":[{"prefix":{"equals-ignore-case":"dis"}}]}}`, true},
		{`{"detail":{"eventName":[{"suffix":"Rotation"}]}}`, true},
		{`{"detail":{"eventName":[{"suffix":{"equals-ignore-case":"ROTATION"}}]}}`, true},
		{`{"detail":{"eventName":[{"equals-ignore-case":"disablekeyrotation"}]}}`, true},
		{`{"detail":{"eventName":[{"wildcard":"Dis*Key*"}]}}`, true},
		{`{"detail":{"eventName":[{"wildcard":"*Key"}]}}`, false},
		{`{"detail":{"eventName":[{"wildcard":"DisableKeyRotation*Rotation"}]}}`, false},
		{`{"detail":{"eventName":[{"anything-but":"EnableKey"}]}}`, true},
		{`{"detail":{"eventName":[{"anything-but":["EnableKey","DisableKeyRotation"]}]}}`, false},
		{`{"detail":{"eventName":[{"anything-but":{"prefix":"Disable"}}]}}`, false},
		{`{"detail":{"eventName":[{"anything-but":{"suffix":["Key","Policy"]}}]}}`, true},
		{`{"detail":{"missing":[{"anything-but":"x"}]}}`, false},
		{`{"detail":{"missing":[{"exists":false}]}}`, true},
		{`{"missing":{"below":[{"exists":false}]}}`, true},
		{`{"missing":{"below":["x"]}}`, false},
		{`{"detail":{"eventName":[{"exists":true}]}}`, true},
		{`{"detail":[{"exists":true}]}`, false}, // not a leaf
		{`{"empty":[{"exists":true}]}`, false},
		{`{"nothing":[null]}`, true},
		{`{"nothing":[{"exists":true}]}`, true},
		{`{"missing":[null]}`, false},
		{`{"flag":[true]}`, true},
		{`{"flag":["true"]}`, false},
		{`{"size":[7]}`, true},
		{`{"size":[{"numeric":[">",5,"<=",7]}]}`, true},
		{`{"size":[{"numeric":["=",8]}]}`, false},
		{`{"size":[{"anything-but":7}]}`, false},
		{`{"resources":["arn:b"]}`, true},
		{`{"resources":[{"prefix":"arn:c"}]}`, false},
		{`{"detail":{"list":{"a":[2]}}}`, true},
		{`{"detail":{"list":{"a":[1],"b":[2]}}}`, false}, // of no one item
		{`{"$or":[{"source":["aws.s3"]},{"account":["123456789012"]}]}`, true},
		{`{"$or":[{"source":["aws.s3"]},{"account":["1"]}]}`, false},
	} {
		p, err := pattern.Parse(c.pattern)
		if err != nil {
			t.Errorf("%s: %v", c.pattern, err)
			continue
		}
		value, err := pattern.Decode([]byte(event))
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Match(value); got != c.want {
			t.Errorf("%s: match = %v, want %v", c.pattern, got, c.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		``, `[]`, `{}`, `{"a":"b"}`, `{"a":[]}`, `{"a":{}}`, `{"a":[["b"]]}`, `{"a":["b"]} x`,
		`{"a":[{"cidr":"10.0.0.0/8"}]}`, `{"a":[{"prefix":1}]}`, `{"a":[{"prefix":"x","suffix":"y"}]}`, `{"a":[{}]}`,
		`{"a":[{"exists":"yes"}]}`, `{"a":[{"anything-but":[]}]}`, `{"a":[{"anything-but":{"cidr":"x"}}]}`,
		`{"a":[{"anything-but":[null]}]}`, `{"a":[{"numeric":[">"]}]}`, `{"a":[{"numeric":["~",1]}]}`, `{"a":[{"numeric":["<","1"]}]}`,
		`{"a":[{"wildcard":"a**b"}]}`, `{"$or":[{"a":["b"]}]}`, `{"$or":["a","b"]}`,
		`{"a":["` + strings.Repeat("x", 5000) + `"]}`,
	} {
		if _, err := pattern.Parse(text); err == nil {
			t.Errorf("%.60s: no error", text)
		}
	}
}

// FuzzParse checks that no pattern and no event makes the matcher panic.
func FuzzParse(f *testing.F) {
	f.Add(`{"source":["aws.kms"],"detail":{"eventName":[{"prefix":"Disable"}]}}`, event)
	f.Add(`{"$or":[{"a":[{"exists":false}]},{"b":[{"numeric":["<",1]}]}]}`, `{"b":0}`)
	f.Add(`{"a":[{"anything-but":{"wildcard":"*x*"}}]}`, `{"a":[null,1,"x"]}`)
	f.Fuzz(func(_ *testing.T, text, event string) {
		p, err := pattern.Parse(text)
		if err != nil {
			return
		}
		if value, err := pattern.Decode([]byte(event)); err == nil {
			p.Match(value)
		}
	})
}
