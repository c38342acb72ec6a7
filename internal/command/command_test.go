package command

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const (
	id  = "1b2c3d4e-0000-4000-8000-000000000001"
	key = "arn:aws:kms:eu-central-1:111122223333:key/" + id
)

// hostile are values that do harm where one step of quoting or escaping undoes another.
var hostile = []string{
	"", "'", "''", `'; reboot; '`, `\'; reboot; \'`, "`reboot`", "$(reboot)", "x$IFS", "a b", "a\tb", "a\nb", "a\rb", "\x1b[2J", "a\u009bb", "a\u202eb",
	"\xff", "*", "~", "{a,b}", "-x", "--endpoint-url=http://evil", "x && reboot", "x > /etc/passwd", "&amp;", "x\u3164", "ü", `"`, `\`, "!!",
	strings.Repeat("x", 5000),
}

func TestForms(t *testing.T) {
	for _, tt := range []struct {
		name string
		form func(string) Value
		good []string
		bad  []string
	}{
		{"Region", Region, []string{"us-east-1", "us-gov-west-1", "eu-isoe-west-1", "mx-central-1", "cn-northwest-1"}, []string{"eu", "eu-central-1.evil.com", "EU-CENTRAL-1"}},
		{"Account", Account, []string{"111122223333"}, []string{"11112222333", "1111222233334"}},
		{"KeyID", KeyID, []string{id, "mrk-1234abcd12ab34cd56ef1234567890ab"}, []string{key, id + "x", "alias/x"}},
		{"Key", Key, []string{key, "arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"}, []string{id, "arn:aws:kms:eu-central-1:111122223333:alias/x"}},
		{"BucketKey", BucketKey, []string{key, id, "alias/aws/s3", "arn:aws:kms:eu-central-1:111122223333:alias/x"}, []string{"x"}},
		{"Alias", Alias, []string{"alias/a/b_c-D"}, []string{"alias/", "alias/a:b", "x"}},
		{"TagKey", TagKey, []string{"cmkeeper:deletion-approved", "Cost Center", "a/b=c+d@e"}, []string{"a,b", strings.Repeat("x", 129)}},
		{"TagValue", TagValue, []string{"secret", "2026-03-01", "team a=b"}, []string{"a,b", strings.Repeat("x", 257)}},
		{"GrantID", GrantID, []string{strings.Repeat("0f", 32)}, []string{"a/b"}},
		{"Bucket", Bucket, []string{"orders-data", "a.b.c", "Old_Bucket"}, []string{"ab", "-ab", "a/b"}},
		{"Prefix", Prefix, []string{"in voices/", "a=1/b=2/", "(x)!*"}, []string{"a'b", "a;b", "a&b", "a<b"}},
		{"Role", Role, []string{"a+b=c,d.e@f_g-h"}, []string{"path/name"}},
		{"User", User, []string{"alice@example.com"}, []string{"path/alice"}},
		{"Session", Session, []string{"bob,x", "i-0123456789abcdef0"}, []string{"a/b"}},
		{"AccessKeyID", AccessKeyID, []string{"ASIAIOSFODNN7EXAMPLE"}, []string{"AKIA-X"}},
		{"Principal", Principal, []string{"arn:aws:iam::111122223333:root", "arn:aws:iam::111122223333:user/a/b/alice", "arn:aws:sts::111122223333:assumed-role/Admin/bob,x"}, []string{"arn:aws:iam::aws:policy/x", "arn:aws:iam::111122223333:role/*"}},
		{"Trail", Trail, []string{"main", "arn:aws:cloudtrail:us-east-1:111122223333:trail/main"}, []string{"ab", "a/b"}},
		{"Rule", Rule, []string{"cmkeeper-kms"}, []string{"a/b"}},
		{"Queue", Queue, []string{"https://sqs.us-east-1.amazonaws.com/111122223333/q", "https://sqs.cn-north-1.amazonaws.com.cn/111122223333/q.fifo"}, []string{"https://evil.example/111122223333/q", "https://evil.example/x.amazonaws.com/111122223333/q", "http://sqs.us-east-1.amazonaws.com/111122223333/q"}},
		{"Topic", Topic, []string{"arn:aws:sns:us-east-1:111122223333:t"}, []string{"t", "arn:aws:sns:us-east-1:111122223333:t:5e5e"}},
		{"KeyStore", KeyStore, []string{"cks-1234567890abcdef0"}, []string{"cks-", "x"}},
		{"Job", Job, []string{"20260301T120000Z-abc"}, []string{"a/b"}},
	} {
		for _, s := range tt.good {
			if line := Line("aws x --y %s", tt.form(s)); !Is(line) || !Safe(line) {
				t.Errorf("%s of %q: %s", tt.name, s, line)
			}
		}
		for _, s := range append(tt.bad, "file://x", "fileb://x", "", "'", "a\nb", "-x", "$(x)", "`x`", `\`, "ü", "\xff") {
			if line := Line("aws x --y %s", tt.form(s)); Is(line) || !strings.Contains(line, "aws x") {
				t.Errorf("%s of %q: %s", tt.name, s, line)
			}
		}
	}
}

func TestLine(t *testing.T) {
	for want, got := range map[string]string{
		"aws kms untag-resource --key-id " + id + " --tag-keys 'a b'":                                                                       Line("aws kms untag-resource --key-id %s --tag-keys %s", KeyID(id), TagKey("a b")),
		`There is no command for "aws kms untag-resource" here: "x'$(id)\u202e" is not of the form of a tag key that can be pasted safely.`: Line("aws kms untag-resource --tag-keys %s", TagKey("x'$(id)\u202e")),
		`There is no command for "aws kms disable-key" here: a key id is not known.`:                                                        Line("aws kms disable-key --key-id %s", KeyID("")),
		`There is no command for "cmkeeper policy baseline show" here: a key id is not known.`:                                              Line("cmkeeper policy baseline show %s > good.json", BaselineOf(KeyID(""), 3)),
		`There is no command for "aws x" here: a value is missing.`:                                                                         Line("aws x --y %s"),
		"aws x --y KEY-ID":                                               Line("aws x --y %s", KeyID("").Or("KEY-ID")),
		"cmkeeper x " + id + "@3 > good.json":                            Line("cmkeeper x %s > good.json", BaselineOf(KeyID(id), 3)),
		"cmkeeper x baseline:" + id + "@3":                               Line("cmkeeper x %s", DiffSource(KeyID(id), 3)),
		"aws x AttributeKey=Username,AttributeValue=bob":                 Line("aws x %s", Lookup("Username", Session("bob"))),
		`aws x '[{"AttributeKey":"Username","AttributeValue":"bob,x"}]'`: Line("aws x %s", Lookup("Username", Session("bob,x"))),
		`aws x '{"a":"bob,x"}'`:                                          Line("aws x %s", Document(map[string]string{"a": "bob,x"}, Session("bob,x"))),
		`There is no command for "aws x" here: it would contain a character that cannot be pasted safely.`: Line("aws x %s", Document(map[string]string{"a": "it's"})),
	} {
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// FuzzPaste pastes commands with any value in any place into the shell: it sees the words
// that were meant and does nothing else.
func FuzzPaste(f *testing.F) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		f.Skip("there is no shell on this machine")
	}
	for _, s := range hostile {
		f.Add(s)
	}
	for _, s := range []string{id, key, "alias/x", "bob,x", "a b", "in voices/", "us-east-1", "111122223333"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, form := range []func(string) Value{Region, Account, KeyID, Key, BucketKey, Alias, TagKey, TagValue, GrantID, Bucket, Prefix, Role, User, Session, AccessKeyID, Principal, Trail, Rule, Queue, Topic, KeyStore, Job} {
			v := form(s)
			doc := Document(map[string]string{"a": s}, v)
			line := Line("aws x --y %s --z %s --doc %s", v, Lookup("Username", v), doc)
			if !Is(line) {
				continue
			}
			out, err := exec.Command(sh, "-c", "set -f; printf '%s\\0' "+line).Output()
			want := []string{"aws", "x", "--y", s, "--z", Lookup("Username", v).text, "--doc", doc.text}
			if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); err != nil || !slices.Equal(got, want) {
				t.Fatalf("%q, %v: the shell sees %q", line, err, got)
			}
		}
		if line := "aws x " + s; Safe(line) { // one that an older build stored
			line, _, _ = strings.Cut(line, " > ")
			out, err := exec.Command(sh, "-c", "set -f; printf '%s\\0' "+line).Output()
			if err != nil || strings.Count(string(out), "\x00") < 2 {
				t.Fatalf("%q, %v: the shell sees %q", line, err, out)
			}
		}
	})
}
