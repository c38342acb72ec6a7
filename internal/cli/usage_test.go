package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/cmkeeper/cmkeeper/usage"
)

// TestUsage: what was done with a key, from the event history and from log files.
func TestUsage(t *testing.T) {
	inAccount(t, func(t *testing.T, a *account) {
		a.enter()
		key := a.newKey(appAlias)
		a.fill("app-data", appAlias, 5)

		// CloudTrail's event history takes some time, and two requests a second.
		var got usage.Table
		a.eventually("the event history has the uses", func() bool {
			code, out, errs := a.command("usage", appAlias, "--json")
			if code != exitOK || json.Unmarshal([]byte(out), &got) != nil {
				t.Fatalf("exit code %d: %s%s", code, out, errs)
			}
			return got.Calls >= 6 // CreateKey, CreateAlias and five objects
		})
		if got.Schema != usage.Schema || got.Key != key || len(got.Services) != 1 || got.Services[0].Name != "AWS Internal" ||
			len(got.Resources) != 1 || got.Resources[0].Name != "s3-bucket app-data" || got.Resources[0].Calls != 5 || len(got.Days) != 31 {
			t.Errorf("%+v", got)
		}
		code, out, _ := a.command("usage", key, "--days", "3")
		for _, want := range []string{key, "Operations\n", "GenerateDataKey", "Resources, as the callers named them\n          5  s3-bucket app-data", "Calls by day (UTC)", "In the 3 days before, no call for the key is known",
			"\nCalls of the last 15 minutes, since "} {
			if code != exitOK || !strings.Contains(out, want) {
				t.Errorf("exit code %d, no %q in %s", code, want, out)
			}
		}
		for line := range strings.Lines(out) {
			if len(line) > 81 && !strings.Contains(line, "arn:") {
				t.Errorf("longer than 80 columns: %s", line)
			}
		}

		dir := t.TempDir()
		log := []byte(`{"Records":[{"eventID":"1b2c3d4e-0000-4000-8000-0000000000aa","eventName":"Decrypt","eventSource":"kms.amazonaws.com","eventTime":"` + got.Last.Format("2006-01-02T15:04:05Z") +
			`","awsRegion":"us-east-1","recipientAccountId":"000000000000","sourceIPAddress":"203.0.113.9","errorCode":"AccessDenied",` +
			`"userIdentity":{"type":"IAMUser","arn":"arn:aws:iam::000000000000:user/=mallory","accountId":"000000000000","userName":"mallory"},"resources":[{"ARN":"` + key + `"}]}]}`)
		if err := os.WriteFile(filepath.Join(dir, "a.json"), log, 0o600); err != nil {
			t.Fatal(err)
		}
		must(a.s3.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("trail")}))(t)
		must(a.s3.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("trail"), Key: aws.String("AWSLogs/a.json"), Body: strings.NewReader(string(log))}))(t)
		for _, place := range []string{dir, "s3://trail/AWSLogs/"} {
			code, out, errs := a.command("usage", key, "--logs", place, "--csv")
			if code != exitOK || !strings.HasPrefix(out, "what,name,calls,failed,first,last\noperation,Decrypt,1,1,") || !strings.Contains(out, "\nfailure,AccessDenied,1,1,") {
				t.Errorf("%s: exit code %d: %s%s", place, code, out, errs)
			}
		}

		for name, tt := range map[string]struct {
			args []string
			code int
			want string
		}{
			"query":        {[]string{"--sql", "athena", "--table", "logs"}, exitOK, "FROM logs\nWHERE eventSource = 'kms.amazonaws.com'\n  AND any_match(resources, r -> r.arn =\n    '" + key + "')"},
			"lake":         {[]string{"--sql", "lake", "--table", "1b2c"}, exitOK, "FROM 1b2c\nWHERE eventSource"},
			"injection":    {[]string{"--sql", "lake", "--table", "x; DROP"}, exitUsage, "--table"},
			"engine":       {[]string{"--sql", "mysql"}, exitUsage, "mysql"},
			"days":         {[]string{"--days", "0"}, exitUsage, "--days"},
			"no such logs": {[]string{"--logs", filepath.Join(dir, "none")}, exitError, "list log files"},
			"no logs":      {[]string{"--logs", t.TempDir()}, exitError, "there are no log files"},
		} {
			if code, out, errs := a.command(append([]string{"usage", key}, tt.args...)...); code != tt.code || !strings.Contains(out+errs, tt.want) {
				t.Errorf("%s: exit code %d: %s%s", name, code, out, errs)
			}
		}
		// What could not be read is never taken for nobody.
		if err := os.WriteFile(filepath.Join(dir, "b.json.gz"), log, 0o600); err != nil {
			t.Fatal(err)
		}
		a.encryptByDefault("trail", appAlias)
		must(a.s3.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("trail"), Key: aws.String("AWSLogs/b.json"), Body: strings.NewReader(string(log))}))(t)
		for name, tt := range map[string]struct {
			denied, logs, calls, want string
		}{
			"no gzip":          {"", dir, "1", "the table may lack calls; not read: b.json.gz: gzip: invalid header"},
			"no s3:GetObject":  {"s3:GetObject", "s3://trail/AWSLogs/", "0", "the table may lack calls; 2 files or records were not read, the first: AWSLogs/a.json: this takes s3:GetObject on the bucket's objects: "},
			"no kms:Decrypt":   {"kms:Decrypt", "s3://trail/AWSLogs/", "1", "not read: AWSLogs/b.json: this takes kms:Decrypt of the key that the trail encrypts its log files with: "},
			"no s3:ListBucket": {"s3:ListBucket", "s3://trail/AWSLogs/", "", "this takes s3:ListBucket on bucket trail"},
			"no LookupEvents":  {"cloudtrail:LookupEvents", "", "", "look up events, which takes cloudtrail:LookupEvents: "},
		} {
			a.deny(administrator, tt.denied)
			for format, calls := range map[string]string{"--json": `"calls":%s,"failed"`, "--csv": "operation,Decrypt,%s,", "": ": %s calls, "} {
				args := []string{"usage", key, "--logs", tt.logs}
				if format != "" {
					args = append(args, format)
				}
				code, out, errs := a.command(args...)
				if code != exitError || !strings.Contains(errs, tt.want) {
					t.Errorf("%s: exit code %d: %s", name, code, errs)
				}
				switch calls = fmt.Sprintf(calls, tt.calls); {
				case tt.calls == "" && out != "", tt.calls != "" && !strings.Contains(out, calls) && (tt.calls != "0" || format != "--csv"):
					t.Errorf("%s: no %q in %s", name, calls, out)
				}
			}
		}
	})
}
