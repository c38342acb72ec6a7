package alert

import (
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
)

// Examples returns one realistic alert of each kind, made up and as of the time given:
// to try out subscriptions with, and to show in the documentation. The one of kind
// policy is a digest.
func Examples(at time.Time) []Alert {
	const account, region = "111122223333", "us-east-1"
	const payments, orders, archive = "0a1b2c3d-0000-4000-8000-000000000001", "0a1b2c3d-0000-4000-8000-000000000002", "0a1b2c3d-0000-4000-8000-000000000003"
	at = at.UTC().Truncate(time.Second)
	mallory := &Actor{
		Name: "Admin/mallory (role session in 111122223333)", Type: "AssumedRole", ARN: "arn:aws:sts::111122223333:assumed-role/Admin/mallory",
		Account: account, Session: "mallory", SourceIP: "203.0.113.7", UserAgent: "aws-cli/2.31",
	}
	key := func(id, alias string) *Key {
		return &Key{ARN: "arn:aws:kms:us-east-1:111122223333:key/" + id, Aliases: []string{alias}, State: "Enabled"}
	}
	command := func(operation, id string) string {
		return "aws kms " + operation + " --key-id " + id + " --region us-east-1"
	}
	public := finding.Finding{ID: finding.PublicPrincipal, Severity: finding.Critical, Statement: "1", Principal: "*", Message: "Everyone, in any AWS account, may kms:Decrypt.", Access: finding.Read}
	example := func(kind Kind, severity finding.Severity, event, title string, change func(*Alert)) Alert {
		a := Alert{
			ID: "example/" + string(kind), Kind: kind, Severity: severity, EventName: event, EventID: "e1e1e1e1-0000-4000-8000-000000000001", Time: at,
			Account: account, Region: region, Title: title, Actor: mallory, Key: key(payments, "alias/payments"),
		}
		change(&a)
		return a
	}

	rotation := example(KindRotation, finding.High, "DisableKeyRotation", "Rotation of alias/payments was turned off", func(a *Alert) {
		a.Summary = "Admin/mallory called DisableKeyRotation."
		a.Risk = "Without rotation all data stays under one generation of key material for ever."
		a.Action = Action{Mode: "enforce", Status: StatusDone, Description: "Rotation is on again, every 180 days, as read back."}
		a.Next = []string{"Find out why Admin/mallory may call kms:DisableKeyRotation.", command("get-key-rotation-status", payments)}
	})
	deletion := example(KindDeletion, finding.Critical, "ScheduleKeyDeletion", "Deletion of key alias/payments was scheduled", func(a *Alert) {
		date := at.AddDate(0, 0, 7)
		a.Summary = "Admin/mallory called ScheduleKeyDeletion. When it was read, KMS was to delete the key in 7 days."
		a.Key.State, a.Key.DeletionDate = "PendingDeletion", &date
		a.Risk = "Everything encrypted under this key is unreadable while the key cannot be used. Once the key is deleted it is lost for good."
		a.Action = Action{Mode: "observe", Status: StatusWouldDo, Description: "Would cancel the deletion and enable the key, as it was Enabled before."}
		a.Next = []string{command("cancel-key-deletion", payments), command("enable-key", payments)}
		read := ", " + at.Format(time.DateTime) + " UTC"
		a.Facts = []Fact{
			{Name: "aliases", Source: "KMS ListAliases" + read, Values: []string{"alias/payments"}},
			{Name: "buckets encrypted with it by default", Source: "S3 GetBucketEncryption of this Region's buckets" + read, Values: []string{"payments-archive", "payments-live"}},
			{Name: "grants", Source: "KMS ListGrants" + read, Values: []string{"rds.amazonaws.com may Decrypt, GenerateDataKey, CreateGrant, DescribeKey (3 grants)"}},
			{Name: "last use", Source: "KMS GetKeyLastUsage, up to an hour late" + read, Values: []string{"Decrypt at " + at.Add(-26*time.Minute).Format(time.RFC3339)}},
			{Name: "recent callers", Source: "the last 50 events about the key in CloudTrail, some minutes late" + read, Values: []string{"unknown: look up events: AccessDeniedException"}},
		}
	})
	policy := func(id, alias string) Alert {
		return example(KindPolicy, finding.Critical, "PutKeyPolicy", "Key policy of "+alias+": everyone, in any AWS account, may kms:Decrypt", func(a *Alert) {
			a.ID, a.Key = "example/policy/"+id, key(id, alias)
			a.Summary = "Admin/mallory called PutKeyPolicy. The live policy was read and judged."
			a.Findings = []finding.Finding{public}
			a.Risk = finding.Risk(a.Findings)
			a.Next = []string{command("get-key-policy", id) + " --policy-name default --output text"}
		})
	}
	items := func(alerts ...Alert) []item {
		var all []item
		for i, a := range alerts {
			a.Time = at.Add(time.Duration(i+1-len(alerts)) * 40 * time.Second)
			all = append(all, item{Alert: a, Name: a.ID})
		}
		return all
	}
	g, _ := groupOf(deletion)
	s := &window{ID: "example", Period: "example", Name: g.name, Short: g.short}
	together := digest(s, items(policy(payments, "alias/payments"), policy(orders, "alias/orders"), policy(archive, "alias/archive")), false, "s3://cmkeeper-state/cmkeeper/groups/example/")
	together.ID = "example/" + string(KindPolicy)
	dangerous := incident(deletion, g, s, items(rotation, policy(orders, "alias/orders"), deletion), 3, "s3://cmkeeper-state/cmkeeper/groups/example/")

	return []Alert{
		rotation, together, deletion,
		example(KindContainment, finding.Critical, "PutKeyPolicy", "Key alias/payments was opened: everyone, in any AWS account, may kms:Decrypt", func(a *Alert) {
			a.Key.State = "Disabled"
			a.Summary = "Admin/mallory called PutKeyPolicy and is none of the roles that may open keys (CMKEEPER_CONTAIN_ALLOWED_ROLES). How it is open is in the findings."
			a.Risk = "While the key is Enabled, everyone it was opened to can use it. While it is Disabled nobody can, and nothing encrypted under it can be read."
			a.Action = Action{Mode: "enforce", Status: StatusDone, Description: "cmkeeper disabled the key. It is Disabled now, as read back."}
			a.Findings = []finding.Finding{public}
			a.Next = []string{"Close the key first: put its former policy back. The live one is:", command("get-key-policy", payments) + " --policy-name default --output text", "Then undo this: enable the key.", command("enable-key", payments)}
		}),
		example(KindAlias, finding.Medium, "UpdateAlias", "Alias alias/payments points to another key", func(a *Alert) {
			a.Summary = "Admin/mallory called UpdateAlias."
			a.Risk = "New data goes under the new key, while what was written before stays under the old one and is lost if that is deleted."
			a.Action = Action{Mode: "observe", Status: StatusWouldDo, Description: "Would move the objects of one bucket to the new key."}
			a.Next = []string{"cmkeeper reencrypt plan --alias alias/payments"}
			a.Facts = []Fact{{Name: "old keys", Values: []string{key(orders, "").ARN}}, {Name: "in scope", Values: []string{"s3://payments-live/"}}}
		}),
		example(KindReencryption, finding.Info, "Reencryption", "Re-encryption of s3://payments-live/ is complete", func(a *Alert) {
			a.Actor, a.EventID = nil, ""
			a.Summary = "A verifying pass found every object version in scope on the new key: 1200 looked at, 1200 moved, 0 refused, 0 failed, in 12s."
			a.Action = Action{Mode: "enforce", Status: StatusDone, Description: "Moved to the new key: 1200 object versions, 3145728 bytes."}
			a.Next = []string{"cmkeeper retire check " + orders}
		}),
		example(KindGuard, finding.Critical, "StopLogging", "The trail that cmkeeper listens to was stopped", func(a *Alert) {
			a.Key = nil
			a.Summary = "Admin/mallory called StopLogging. cmkeeper receives no events any more; it sees only what its sweeps find."
			a.Risk = "The actor may be about to make calls that the trail would have recorded."
			a.Next = []string{"aws cloudtrail start-logging --name management-events --region us-east-1"}
		}),
		dangerous,
		example(KindAccess, finding.Medium, "ScheduleKeyDeletion", "Admin/mallory was denied ScheduleKeyDeletion", func(a *Alert) {
			a.Summary = "Admin/mallory called ScheduleKeyDeletion and AWS refused it: AccessDenied."
			a.Risk = "Nothing changed. The actor tries calls that it may not make."
			a.Next = []string{"Ask mallory what the call was for."}
		}),
		example(KindUse, finding.High, "Decrypt", "Admin/mallory needs key alias/payments, which is pending deletion", func(a *Alert) {
			a.Summary = "Admin/mallory called Decrypt, and AWS refused it because the key is pending deletion."
			a.Key.State = "PendingDeletion"
			a.Risk = "The caller fails now, and for good once the key is deleted."
			a.Next = []string{command("cancel-key-deletion", payments), command("enable-key", payments)}
		}),
		example(KindGrant, finding.High, "CreateGrant", "Grant on alias/payments lets account 999988887777 decrypt", func(a *Alert) {
			a.Summary = "Admin/mallory called CreateGrant: arn:aws:iam::999988887777:role/reader may Decrypt."
			a.Risk = "A grant gives the use of the key whatever its policy says."
			a.Next = []string{command("list-grants", payments), command("revoke-grant", payments) + " --grant-id 5e5e5e5e"}
		}),
		example(KindMaterial, finding.Critical, "DeleteImportedKeyMaterial", "The imported key material of alias/payments is gone", func(a *Alert) {
			a.Summary = "Admin/mallory called DeleteImportedKeyMaterial. The key cannot be used until the same material is imported again."
			a.Key.State = "PendingImport"
			a.Risk = "Everything encrypted under this key is unreadable until then."
			a.Next = []string{command("get-parameters-for-import", payments) + " --wrapping-algorithm RSAES_OAEP_SHA_256 --wrapping-key-spec RSA_4096"}
		}),
		example(KindKeyStore, finding.High, "DisconnectCustomKeyStore", "A custom key store was disconnected", func(a *Alert) {
			a.Key = nil
			a.Summary = "Admin/mallory called DisconnectCustomKeyStore. No key in it can be used."
			a.Next = []string{"aws kms connect-custom-key-store --custom-key-store-id cks-0a1b2c3d --region us-east-1"}
		}),
		example(KindTag, finding.Medium, "TagResource", "A tag on alias/payments approves its deletion", func(a *Alert) {
			a.Summary = "Admin/mallory set a tag by which cmkeeper takes a deletion for approved."
			a.Risk = "Everyone who may tag the key may approve its deletion."
			a.Next = []string{command("list-resource-tags", payments)}
		}),
		example(KindEncryption, finding.Medium, "PutBucketEncryption", "New objects of payments-live no longer go under alias/payments", func(a *Alert) {
			a.Summary = "Admin/mallory called PutBucketEncryption."
			a.Risk = "What is written from now on is under another key than it should be."
			a.Next = []string{"aws s3api get-bucket-encryption --bucket payments-live"}
		}),
	}
}
