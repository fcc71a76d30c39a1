# The hosts. One alone is an instance with an address that stays. With a load balancer there are two groups: one that
# never holds more than one host, for the Discord session, and one for HTTP.

data "aws_ssm_parameter" "image" {
  count = var.ami_id == null ? 1 : 0

  name = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-${var.architecture}"
}

locals {
  image = var.ami_id == null ? nonsensitive(data.aws_ssm_parameter.image[0].value) : var.ami_id

  # The settings of ../cloud-init/user-data are lines of their own, between single quotes.
  install = { for kind in local.kinds : kind => replace(replace(replace(replace(
    file("${path.module}/../cloud-init/user-data"),
    "/(?m)^config='.*'$/", "config='s3://${aws_s3_bucket.configuration.id}/${local.keys[kind]}'"),
    "/(?m)^package='.*'$/", "package='${local.package.url}'"),
    "/(?m)^sha256='.*'$/", "sha256='${local.package.sha256}'"),
    "/(?m)^https='.*'$/", "https='${local.https}'")
  }

  # TLS ends at the load balancer where there is one.
  https = var.web == null && contains(var.http_ports, 443) ? "yes" : ""

  filled_in = var.user_data != null || alltrue(flatten([for kind, text in local.install : [
    strcontains(text, "\nconfig='s3://${aws_s3_bucket.configuration.id}/${local.keys[kind]}'\n"),
    strcontains(text, "\npackage='${local.package.url}'\n"),
    strcontains(text, "\nsha256='${local.package.sha256}'\n"),
    strcontains(text, "\nhttps='${local.https}'\n"),
  ]]))

  agent = templatefile("${path.module}/agent.json.tftpl", { log_group = local.log_group })

  user_data = { for kind in local.kinds : kind => var.user_data != null ? var.user_data : templatefile("${path.module}/user-data.mime.tftpl", {
    install = local.install[kind]
    agent   = var.ship_journal ? local.agent : ""
  }) }

  # The instance has its tags from default_tags; what a group starts has them from here alone.
  host_tags = { for kind in local.kinds : kind => merge(var.tags, { Name = "${var.name}-${kind}" }) }
}

resource "aws_instance" "host" {
  count = var.web == null ? 1 : 0

  # checkov:skip=CKV_AWS_126: CloudWatch's five-minute metrics are free and enough: perch says itself what is wrong.
  # checkov:skip=CKV_AWS_135: t3 and t4g are optimized for EBS without being asked, and refuse to be told.
  ami                  = local.image
  instance_type        = var.instance_type
  iam_instance_profile = aws_iam_instance_profile.host["bot"].name
  key_name             = var.ssh == null ? null : var.ssh.key_name
  user_data            = local.user_data["bot"]

  # A host is never mended, it is replaced: the old one is gone before the new one starts, so that two never hold the
  # Discord session. The interface, which can be in one host only, would not allow anything else.
  user_data_replace_on_change = true

  primary_network_interface {
    network_interface_id = aws_network_interface.host[0].id
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  root_block_device {
    volume_type = "gp3"
    volume_size = var.volume_gib
    encrypted   = true
    tags        = local.host_tags["bot"]
  }

  # Credits that run out slow the host down; they never cost more than the table says.
  dynamic "credit_specification" {
    for_each = startswith(var.instance_type, "t") ? ["standard"] : []

    content {
      cpu_credits = credit_specification.value
    }
  }

  tags = local.host_tags["bot"]

  lifecycle {
    precondition {
      condition     = local.filled_in
      error_message = "../cloud-init/user-data has not the settings config, package, sha256 and https, each on a line of its own."
    }

    precondition {
      condition     = length(local.user_data["bot"]) <= 16384
      error_message = "The user data is over the 16 KiB that EC2 takes."
    }
  }

  # Without its role perch would begin by being refused, and without the address it would reach nobody.
  depends_on = [aws_iam_role_policy.daemon, aws_iam_role_policy.package, aws_s3_object.package, aws_eip_association.host]
}

# The host's place in the network outlives the host: its address, and what lets in and out.
resource "aws_network_interface" "host" {
  count = var.web == null ? 1 : 0

  description     = "${var.name}: the host's place in the network"
  subnet_id       = var.subnet_ids[0]
  security_groups = [aws_security_group.host["bot"].id]
  tags            = { Name = var.name }
}

resource "aws_eip" "host" {
  # checkov:skip=CKV2_AWS_19: attached to the interface.
  count = var.web == null ? 1 : 0

  domain = "vpc"
  tags   = { Name = var.name }
}

resource "aws_eip_association" "host" {
  count = var.web == null ? 1 : 0

  allocation_id        = aws_eip.host[0].id
  network_interface_id = aws_network_interface.host[0].id
}

resource "aws_launch_template" "host" {
  for_each = var.web == null ? toset([]) : local.kinds

  # checkov:skip=CKV_AWS_88: a host in a private subnet needs a NAT gateway, which costs four times what the host does.
  name                   = "${var.name}-${each.key}"
  description            = "perch hosts (${each.key})"
  update_default_version = true
  image_id               = local.image
  instance_type          = each.key == "bot" ? var.instance_type : var.web.instance_type
  key_name               = var.ssh == null ? null : var.ssh.key_name
  user_data              = base64encode(local.user_data[each.key])

  iam_instance_profile {
    name = aws_iam_instance_profile.host[each.key].name
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  network_interfaces {
    associate_public_ip_address = true
    delete_on_termination       = true
    security_groups             = [aws_security_group.host[each.key].id]
  }

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_type           = "gp3"
      volume_size           = var.volume_gib
      encrypted             = true
      delete_on_termination = true
    }
  }

  dynamic "credit_specification" {
    for_each = startswith(each.key == "bot" ? var.instance_type : var.web.instance_type, "t") ? ["standard"] : []

    content {
      cpu_credits = credit_specification.value
    }
  }

  dynamic "tag_specifications" {
    for_each = toset(["instance", "volume"])

    content {
      resource_type = tag_specifications.value
      tags          = local.host_tags[each.key]
    }
  }

  lifecycle {
    precondition {
      condition     = local.filled_in
      error_message = "../cloud-init/user-data has not the settings config, package, sha256 and https, each on a line of its own."
    }

    precondition {
      condition     = length(local.user_data[each.key]) <= 16384
      error_message = "The user data is over the 16 KiB that EC2 takes."
    }
  }

  depends_on = [aws_iam_role_policy.daemon, aws_iam_role_policy.package, aws_s3_object.package]
}

# The Discord session's host: at most one, the old one gone before the new one comes, whatever is the cause.
resource "aws_autoscaling_group" "bot" {
  count = var.web == null ? 0 : 1

  # checkov:skip=CKV_AWS_153: the launch template tags what the group starts.
  name                      = "${var.name}-bot"
  min_size                  = 1
  max_size                  = 1
  vpc_zone_identifier       = var.subnet_ids
  health_check_type         = "EC2"
  health_check_grace_period = 300
  enabled_metrics           = ["GroupInServiceInstances"]

  # To balance zones, Auto Scaling starts a second host before it ends the first.
  suspended_processes = ["AZRebalance"]

  # Whether it runs is for `perch status` to say: a configuration that is missing is no reason to fail an apply.
  wait_for_capacity_timeout = "0"

  launch_template {
    id      = aws_launch_template.host["bot"].id
    version = aws_launch_template.host["bot"].latest_version
  }

  # What ends a host in bad health: end first, then start.
  instance_maintenance_policy {
    min_healthy_percentage = 0
    max_healthy_percentage = 100
  }

  # What a new launch template starts: likewise.
  instance_refresh {
    strategy = "Rolling"

    preferences {
      min_healthy_percentage = 0
      max_healthy_percentage = 100
      instance_warmup        = 60
    }
  }

  # Time for perch to see that its host is to go, finish what is in flight and leave the session resumable. Nobody has to
  # say that it is done: the host goes when the time is up.
  initial_lifecycle_hook {
    name                 = "drain"
    lifecycle_transition = "autoscaling:EC2_INSTANCE_TERMINATING"
    heartbeat_timeout    = 60
    default_result       = "CONTINUE"
  }
}

resource "aws_autoscaling_group" "web" {
  count = var.web == null ? 0 : 1

  # checkov:skip=CKV_AWS_153: the launch template tags what the group starts.
  name                      = "${var.name}-web"
  min_size                  = var.web.minimum
  max_size                  = var.web.maximum
  vpc_zone_identifier       = var.subnet_ids
  target_group_arns         = [aws_lb_target_group.web[0].arn]
  enabled_metrics           = ["GroupInServiceInstances"]
  wait_for_capacity_timeout = "0"

  # `/ready` decides. A host that waits for its configuration is not ready: it has ten minutes before it is replaced.
  health_check_type         = "ELB"
  health_check_grace_period = 600

  launch_template {
    id      = aws_launch_template.host["web"].id
    version = aws_launch_template.host["web"].latest_version
  }

  # New hosts before old ones go, and back to the old template when the new ones do not become ready.
  instance_maintenance_policy {
    min_healthy_percentage = 100
    max_healthy_percentage = 150
  }

  instance_refresh {
    strategy = "Rolling"

    preferences {
      min_healthy_percentage = 100
      max_healthy_percentage = 150
      instance_warmup        = 120
      auto_rollback          = true
    }
  }

  initial_lifecycle_hook {
    name                 = "drain"
    lifecycle_transition = "autoscaling:EC2_INSTANCE_TERMINATING"
    heartbeat_timeout    = 60
    default_result       = "CONTINUE"
  }
}

resource "aws_autoscaling_policy" "web" {
  count = var.web == null ? 0 : 1

  name                   = "${var.name}-cpu"
  autoscaling_group_name = aws_autoscaling_group.web[0].name
  policy_type            = "TargetTrackingScaling"

  target_tracking_configuration {
    target_value = var.web.cpu_target

    predefined_metric_specification {
      predefined_metric_type = "ASGAverageCPUUtilization"
    }
  }
}
