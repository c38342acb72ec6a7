package cli

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
)

// keyUses makes CloudTrail's records of uses of keys.
type keyUses struct{ records []string }

// add adds so many calls in so many seconds from a time on.
func (u *keyUses) add(n int, at time.Time, key, who, operation, address, context string, more ...string) {
	kind, name, _ := strings.Cut(who, "/")
	identity := fmt.Sprintf(`{"type":"IAMUser","arn":"arn:aws:iam::111122223333:user/%s","accountId":"111122223333","userName":"%[1]s"}`, name)
	if kind == "role" {
		identity = fmt.Sprintf(`{"type":"AssumedRole","arn":"arn:aws:sts::111122223333:assumed-role/%s/i-0a1b2c3d","accountId":"111122223333","invokedBy":"AWS Internal",`+
			`"sessionContext":{"sessionIssuer":{"type":"Role","arn":"arn:aws:iam::111122223333:role/%[1]s","userName":"%[1]s"}}}`, name)
	}
	for i := range n {
		u.records = append(u.records, fmt.Sprintf(`{"eventVersion":"1.11","eventID":"%08x-0000-4000-8000-000000000001","eventName":%q,"eventSource":"kms.amazonaws.com","eventTime":%q,"readOnly":true,`+
			`"awsRegion":"eu-central-1","recipientAccountId":"111122223333","sourceIPAddress":%q,"userIdentity":%s,"resources":[{"ARN":%q,"type":"AWS::KMS::Key"}],%s"requestParameters":{"encryptionContext":{%s}}}`,
			len(u.records), operation, at.Add(time.Duration(i)*time.Second).Format(time.RFC3339), address, identity, key, strings.Join(more, ""), context))
	}
}

// TestUsageDocument keeps the transcripts of cmkeeper usage in docs/keys-and-report.md true.
// With UPDATE_DOCS=1 it writes them.
func TestUsageDocument(t *testing.T) {
	path, err := filepath.Abs(filepath.Join("..", "..", "docs", "keys-and-report.md"))
	if err != nil {
		t.Fatal(err)
	}
	page := string(must(os.ReadFile(path))(t))
	t.Chdir(t.TempDir())
	n, want := 0, ""
	synctest.Test(t, func(t *testing.T) {
		server := localaws.New(localaws.Options{Account: "111122223333", Region: "eu-central-1"})
		defer server.Close()
		cfg := inprocess.Config(server, "eu-central-1", "olga")
		keys, ids := kms.NewFromConfig(cfg), map[string]string{}
		newKey := func(name, shown string) string {
			key := must(keys.CreateKey(t.Context(), &kms.CreateKeyInput{}))(t).KeyMetadata
			must(keys.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &name, TargetKeyId: key.KeyId}))(t)
			ids[*key.KeyId] = shown
			return *key.Arn
		}
		orders, sessions := newKey("alias/orders", "0a1b2c3d-0000-4000-8000-000000000001"), newKey("alias/sessions", "0a1b2c3d-0000-4000-8000-000000000002")
		now := time.Date(2026, 3, 9, 12, 0, 0, 0, time.UTC)
		time.Sleep(time.Until(now))

		var of, busy keyUses
		object := func(bucket string) string { return `"aws:s3:arn":"arn:aws:s3:::` + bucket + `/2026/7.csv"` }
		for day := range 14 {
			at := now.AddDate(0, 0, -day).Add(-2 * time.Hour)
			of.add(6+day%3, at, orders, "role/orders-app", "Decrypt", "AWS Internal", object("orders-data"))
			of.add(3, at, orders, "role/orders-app", "GenerateDataKey", "AWS Internal", object("orders-data"))
			of.add(1, at, orders, "role/billing", "Decrypt", "AWS Internal", `"SecretARN":"arn:aws:secretsmanager:eu-central-1:111122223333:secret:billing-a1b2c3"`)
		}
		night := time.Date(2026, 3, 7, 1, 41, 0, 0, time.UTC)
		of.add(38, night, orders, "user/mallory", "Decrypt", "203.0.113.9", object("orders-data"))
		of.add(2, night.Add(time.Minute), orders, "user/mallory", "Decrypt", "203.0.113.9", object("payroll"), `"errorCode":"AccessDenied",`)
		for minute := range 4000 {
			busy.add(1, now.Add(-time.Duration(minute)*time.Minute), sessions, "role/web", "Decrypt", "AWS Internal", `"aws:dynamodb:tableName":"sessions"`)
		}
		for _, record := range append(of.records, strings.ReplaceAll(strings.Join(busy.records, "\n"), `"eventID":"0000`, `"eventID":"1000`)) {
			for line := range strings.SplitSeq(record, "\n") {
				if err := server.Record(json.RawMessage(line)); err != nil {
					t.Fatal(err)
				}
			}
		}
		// The trail's log files, one of which was not copied to its end.
		if err := os.Mkdir("trail", 0o700); err != nil {
			t.Fatal(err)
		}
		half := len(of.records) / 2
		for i, records := range [][]string{of.records[:half], of.records[half:], of.records[:1]} {
			var log bytes.Buffer
			z := gzip.NewWriter(&log)
			fmt.Fprintf(z, `{"Records":[%s]}`, strings.Join(records, ","))
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			if i == 2 {
				log.Truncate(log.Len() / 2)
			}
			if err := os.WriteFile(fmt.Sprintf("trail/111122223333_CloudTrail_eu-central-1_20260309T1%d00Z_a.json.gz", i), log.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want = shownUsage.ReplaceAllStringFunc(page, func(block string) string {
			n++
			line := shownUsage.FindStringSubmatch(block)[1]
			var out, errs bytes.Buffer
			if err := demoOperator(t.Context(), nil, cfg, &out, &errs, strings.Fields(line)...); err != nil {
				fmt.Fprintf(&errs, "cmkeeper: %v\n", err)
			}
			expectNarrow(t, out.String())
			text := out.String() + errs.String()
			for id, shown := range ids {
				text = strings.ReplaceAll(text, id, shown)
			}
			time.Sleep(time.Until(now.Add(time.Duration(n) * time.Hour)))
			return "```console\n$ cmkeeper " + line + "\n" + text + "```"
		})
	})
	if n != 4 {
		t.Errorf("the page has %d transcripts", n)
	}
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		page = want
	}
	if diff := cmp.Diff(want, page); diff != "" {
		t.Errorf("%s shows other transcripts; UPDATE_DOCS=1 go test ./internal/cli -run UsageDocument writes them:\n%s", path, diff)
	}
}

var shownUsage = regexp.MustCompile("(?s)```console\n\\$ cmkeeper (usage [^\n]*)\n.*?```")
