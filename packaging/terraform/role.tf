# What a host may do in AWS: read one object and one secret. The rest are options, each a policy of its own, so that the
# daemon's stays as short as it is. The documents are in policies/, where perch's tests load them from.

resource "aws_iam_role" "host" {
  for_each = local.kinds

  name               = "${var.name}-${each.key}-${var.region}"
  description        = "What a perch host (${each.key}) may do"
  assume_role_policy = file("${path.module}/policies/assume.json")
}

resource "aws_iam_instance_profile" "host" {
  for_each = local.kinds

  name = aws_iam_role.host[each.key].name
  role = aws_iam_role.host[each.key].name
}

resource "aws_iam_role_policy" "daemon" {
  for_each = local.kinds

  name = "daemon"
  role = aws_iam_role.host[each.key].id
  policy = templatefile("${path.module}/policies/daemon.json.tftpl", {
    configuration_arn = "${aws_s3_bucket.configuration.arn}/${local.keys[each.key]}"
    secret_arn        = aws_secretsmanager_secret.perch[each.key].arn
  })
}

resource "aws_iam_role_policy" "key" {
  for_each = var.kms_key_arn == null ? toset([]) : local.kinds

  name   = "key"
  role   = aws_iam_role.host[each.key].id
  policy = templatefile("${path.module}/policies/key.json.tftpl", { key_arn = var.kms_key_arn, region = var.region })
}

# Installing is not the daemon's work, but the host has one role for all that runs on it.
resource "aws_iam_role_policy" "package" {
  for_each = local.uploaded || startswith(local.elsewhere, "s3://") ? local.kinds : toset([])

  name = "package"
  role = aws_iam_role.host[each.key].id
  policy = templatefile("${path.module}/policies/package.json.tftpl", {
    # One version of an object is read by an action of its own.
    action      = local.uploaded || strcontains(local.elsewhere, "?versionId=") ? "s3:GetObjectVersion" : "s3:GetObject"
    package_arn = local.package_arn
  })
}

# AmazonSSMManagedInstanceCore would do as well, and would let the host read every parameter of the account.
resource "aws_iam_role_policy" "session_manager" {
  for_each = var.session_manager ? local.kinds : toset([])

  # checkov:skip=CKV_AWS_355: these actions know no resource; a host can only speak for itself.
  # checkov:skip=CKV_AWS_290: as above.
  name   = "session-manager"
  role   = aws_iam_role.host[each.key].id
  policy = file("${path.module}/policies/session-manager.json")
}

resource "aws_iam_role_policy" "journal" {
  for_each = var.ship_journal ? local.kinds : toset([])

  name   = "journal"
  role   = aws_iam_role.host[each.key].id
  policy = templatefile("${path.module}/policies/journal.json.tftpl", { log_group_arn = aws_cloudwatch_log_group.journal.arn })
}
