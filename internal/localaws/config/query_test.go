package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// documents are three resources.
func documents() []map[string]any {
	s := New(Config{Account: "111122223333", Region: "us-east-1"})
	s.SetRecorder(&Recorder{Group: All()})
	s.Put(
		Item{Type: "AWS::EC2::Volume", ID: "vol-1", Configuration: map[string]any{"kmsKeyId": "k1", "encrypted": true, "size": 8}},
		Item{Type: "AWS::EC2::Volume", ID: "vol-2", Configuration: map[string]any{"encrypted": false}},
		Item{Type: "AWS::EKS::Cluster", ID: "c-1", Configuration: map[string]any{"EncryptionConfig": []any{map[string]any{"Provider": map[string]any{"KeyArn": "k1"}}, map[string]any{"Provider": map[string]any{"KeyArn": "k2"}}}}},
	)
	return s.documents()
}

func TestConditions(t *testing.T) {
	for where, want := range map[string]string{
		"":                                      "vol-1 vol-2 c-1",
		"WHERE configuration.kmsKeyId = 'k1'":   "vol-1",
		"where configuration.kmsKeyId='k1'":     "vol-1",
		"WHERE configuration.encrypted = false": "vol-2",
		"WHERE configuration.size = 8":          "vol-1",
		"WHERE configuration.EncryptionConfig.Provider.KeyArn = 'k2'":                                                  "c-1",
		"WHERE configuration.kmsKeyId = 'K1'":                                                                          "",
		"WHERE resourceType IN ('AWS::EC2::Volume', 'x')":                                                              "vol-1 vol-2",
		"WHERE resourceType LIKE 'AWS::EC2::%'":                                                                        "vol-1 vol-2",
		"WHERE resourceType <> 'AWS::EC2::Volume'":                                                                     "c-1",
		"WHERE NOT resourceType = 'AWS::EC2::Volume'":                                                                  "c-1",
		"WHERE resourceId = 'c-1' OR resourceId = 'vol-1' AND configuration.encrypted = false":                         "c-1",
		"WHERE (resourceId = 'c-1' OR resourceId = 'vol-1') AND resourceType = 'AWS::EC2::Volume'":                     "vol-1",
		"WHERE configuration.kmsKeyId IN ('k1','k2') OR configuration.EncryptionConfig.Provider.KeyArn IN ('k1','k2')": "vol-1 c-1",
	} {
		q, err := parse("SELECT resourceId " + where)
		if err != nil {
			t.Errorf("%s: %v", where, err)
			continue
		}
		var ids []string
		for _, row := range q.run(documents()) {
			ids = append(ids, row["resourceId"].(string))
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("%s: %q, want %q", where, got, want)
		}
	}
}

func TestRows(t *testing.T) {
	for text, want := range map[string][]map[string]any{
		"SELECT resourceId, configuration.kmsKeyId WHERE resourceType = 'AWS::EC2::Volume'": {
			{"resourceId": "vol-1", "configuration": map[string]any{"kmsKeyId": "k1"}}, {"resourceId": "vol-2"},
		},
		"SELECT configuration.EncryptionConfig.Provider.KeyArn WHERE resourceId = 'c-1'": {
			{"configuration": map[string]any{"EncryptionConfig": []any{map[string]any{"Provider": map[string]any{"KeyArn": "k1"}}, map[string]any{"Provider": map[string]any{"KeyArn": "k2"}}}}},
		},
		"SELECT resourceType, COUNT(*) GROUP BY resourceType": {
			{"resourceType": "AWS::EC2::Volume", "COUNT(*)": 2}, {"resourceType": "AWS::EKS::Cluster", "COUNT(*)": 1},
		},
		"SELECT COUNT(*) WHERE resourceId LIKE 'vol-%'": {{"COUNT(*)": 2}},
	} {
		q, err := parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got := q.run(documents())
		if len(got) == 2 && got[0]["COUNT(*)"] == 1 {
			got[0], got[1] = got[1], got[0] // groups are in no order
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", text, d)
		}
	}
}

func TestRefusedQueries(t *testing.T) {
	for _, text := range []string{
		"", "resourceId", "SELECT", "SELECT resourceId FROM resources", "SELECT DISTINCT resourceId", "SELECT resourceId WHERE", "SELECT 'x'",
		"SELECT resourceId WHERE tags IS NULL", "SELECT resourceId WHERE resourceId = 'a", "SELECT resourceId WHERE resourceId LIKE '%a'",
		"SELECT resourceId WHERE resourceId LIKE 'ab%'", "SELECT resourceId WHERE (resourceId = 'a'", "SELECT resourceId WHERE resourceId IN ('a'",
		"SELECT resourceId WHERE resourceId = 'a' resourceId", "SELECT resourceId, COUNT(*)", "SELECT resourceId GROUP BY resourceId",
		"SELECT COUNT(*) GROUP BY a, b, c, d", "SELECT SUM(size)", "SELECT resourceId WHERE size > 3", "SELECT resourceId WHERE resourceId = a",
	} {
		if _, err := parse(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
